"""What is shown: reports and what they are built of, and looks into the stores."""
