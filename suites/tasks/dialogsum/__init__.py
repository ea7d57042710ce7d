"""Task `dialogsum`: summarise a conversation; scored by ROUGE against every reference summary."""
