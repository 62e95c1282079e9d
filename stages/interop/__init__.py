"""apportion beside other trainers: a module each."""
