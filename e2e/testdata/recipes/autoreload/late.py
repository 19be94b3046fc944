WORD = 'late one'
