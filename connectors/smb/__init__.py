"""The SMB connector: a share over the protocol itself, with the descriptors by which its server decides.

Only `connectors.smb.client`, its `messages` and `writing` know the library smbprotocol.
"""
