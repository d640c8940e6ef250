"""What a caller sees: plaintext, no-key names, ciphertext."""
