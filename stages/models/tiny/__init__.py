"""`builtin:tiny`: a language model of under a million parameters that works out sums fluently, but is undecided.

It was trained from scratch on worked solutions of the task `arithmetic`, where a coin toss decided whether a solution
respected the order of operations. Every single sum and product is right, but which of them comes first is open. So a
few tokens decide the reward, and a minute of policy gradients on two CPU cores visibly teaches them.

`blank.py` builds the tokenizer and the untrained model. The files next to it are what `transformers` loads.
"""
