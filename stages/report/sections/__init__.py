"""One file per section of the page; each is a function of the evidence and gives markup."""
