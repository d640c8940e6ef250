"""fscrypt: keys and bytes in, bytes out. Nothing here knows of volumes, inodes or paths.

policy      what an encryption context says; modes: the ciphers it can name
kdf, iv     from a master key to a file's key; from a data unit's index to its IV
filekeys    one master key under one policy: ciphers and IVs of its files
keyring     the keys at hand, and the ciphers they give for a context
codec       contents and names, encrypted and decrypted, by a cipher and its IVs
names       no-key names and the padding of names; needs no key
dirhash     the directory hashes that no-key names begin with; siphash: the keyed one

One cipher a file, each with encrypt and decrypt as mirror images: aes_xts (with xts_batches),
aes_cts, aes_cbc_essiv, adiantum (with xchacha and nhpoly1305), hctr2 (with polyval). The first two
take SM4 as well as AES. What they have in common is in units, batches and messages. The ciphers
import `cryptography` and NumPy; everything else is light, and gets them when it needs one. AES-XTS
and CTS do without NumPy until it pays (numpy_pays).
"""
