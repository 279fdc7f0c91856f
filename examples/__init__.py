"""Programs beside the project that show how its models were made."""
