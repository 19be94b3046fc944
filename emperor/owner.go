package emperor

import "cmp"

// another reports whether f is the file of another user than owner, who had a file of
// the same name; 0: the operator had.
func another(owner int, f File) bool {
	return owner != 0 && f.owner() != 0 && owner != f.owner()
}

// owner is the uid of a user's file; 0: it is the operator's, or whose it is cannot be
// told.
func (f File) owner() int {
	if f.Trust.Operator || f.Problem != nil {
		return 0
	}
	return f.Trust.UID
}

// left reports whether what is kept under en's name was another user's, whose file went
// while no Emperor looked: generations, counters, what was asked of it. en then knows
// whose it was.
func (s *set) left(en *entry) bool {
	l := s.load(en.file.Name)
	en.actor.left = &l
	if l.err != nil {
		return false
	}
	en.owner = cmp.Or(en.owner, l.record.Owner)
	return another(l.record.Owner, en.file)
}
