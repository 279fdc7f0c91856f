"""The functions of `import nvae_tf`."""
