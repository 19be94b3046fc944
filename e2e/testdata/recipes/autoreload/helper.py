WORD = 'one'
