"""fscrypt: keys and bytes in, bytes out. Nothing here knows volumes, inodes or paths.

policy      the encryption context of an inode; modes: the ciphers that it can name
kdf, iv     from a master key to a file's key; from a data unit's index to its IV
keyring     the keys at hand, and the ciphers that they give for a context
filekeys    one master key under one policy: ciphers and IVs of its files
codec       contents and names of one inode, encrypted and decrypted by a cipher and its IVs
ciphers     from a mode to its cipher

Each cipher has a module, with encrypt and decrypt as mirror images: aes_xts (with xts_batches),
aes_cts, aes_cbc_essiv, adiantum (with xchacha and nhpoly1305), hctr2 (with polyval). The first two
take SM4 as well as AES. Their interfaces are in data_cipher and name_cipher; batches has the buffers
of those that use NumPy. The ciphers import `cryptography` and NumPy; all other modules are light and
import a cipher when it is needed. AES-XTS and CTS use NumPy only when that is quicker
(worth_importing_numpy).

No-key names, the padding of names and the directory hashes are in names/: they need no key.
"""
