"""What is computed: recipes, cells, studies and their options."""
