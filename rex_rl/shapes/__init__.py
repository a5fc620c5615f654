"""The synthetic world `shapes` and the small base model that ships with it (folder base/).

Imports: rex_rl.errors, language and policy; world.py needs neither torch nor a model.
Begin with world.py (scenes, pictures, record files), then tiny.py (network and tokenizer); questions.py,
dense_head.py, muon.py and pretrain.py made the base.
"""
