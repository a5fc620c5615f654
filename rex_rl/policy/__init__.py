"""The policy network: loading it, its images, packed groups, attention kernels, adapters and the reference for KL.

Imports: rex_rl.config, errors and language; torch, with transformers and peft loaded on first use.
Begin with model.py, then positions.py (how a group is packed) and attention.py; lora.py and reference.py follow.
"""
