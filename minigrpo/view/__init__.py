"""What a person looks at: plots, diagrams, coloured tokens, the rating of records."""
