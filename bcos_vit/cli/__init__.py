"""The ``bcos-vit`` command, one file a verb."""
