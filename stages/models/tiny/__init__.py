"""`builtin:tiny`: a language model of under a million parameters that works out sums, fluently and undecided.

It was trained from scratch on worked solutions of the task `arithmetic` in which the order of operations was
respected or not by the toss of a coin. Each single sum and product is right; which of them comes first is open.
So a few tokens decide the reward, and a minute of policy gradients on two CPU cores can be seen to teach them.

`blank.py` builds the tokenizer and the untrained model; the files beside it are what `transformers` loads.
"""
