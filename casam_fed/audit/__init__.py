"""What was exchanged, signed. Imports only the standard library and `cryptography`: an auditor can read all of it."""
