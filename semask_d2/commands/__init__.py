"""The commands, `semask train`, `eval`, `predict`, `report`, `web`, `config`.

train_net.py and demo/demo.py are the same functions.
"""
