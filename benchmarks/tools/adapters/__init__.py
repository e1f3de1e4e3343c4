"""A file for each tool: `opened(case, module, tokenizer)` gives the subject, called as the tool's own pages call it."""
