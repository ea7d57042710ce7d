"""Task `webglm_qa`: answer a question from numbered references, citing them as [n]."""
