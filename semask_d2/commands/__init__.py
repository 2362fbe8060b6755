"""Commands of `semask`: `parsers` lists them with their arguments, and each has a module with `run(args)`.

train_net.py runs `semask train`, and demo/demo.py runs `semask predict`.
"""
