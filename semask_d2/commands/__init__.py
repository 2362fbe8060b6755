"""The commands: `semask train`, `eval`, `predict`, `export`, `report`, `web`, `config`, `check`, `init-data`.

train_net.py and demo/demo.py are the functions of the first three.
"""
