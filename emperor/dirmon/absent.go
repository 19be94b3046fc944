package dirmon

import (
	"slices"
	"strings"

	"liege/emperor"
)

// absent deals with an entry that this scan has not met.
func (s *scanner) absent(p string, e *entry) {
	if e.seen || slices.ContainsFunc(s.failed[e.source], func(dir string) bool { return dir == "/" || strings.HasPrefix(p, dir+"/") }) {
		return
	}
	if e.missing.IsZero() {
		e.missing = s.now
	}
	if e.counts && s.comesBack(e) {
		return
	}
	s.m.keep(e, emperor.File{})
	delete(s.m.entries, p)
}

// comesBack reports whether the file of e may be there again in a moment: it is being
// written anew, or has another name that does not count yet. One that was renamed goes
// when that counts, not later: two vassals would have its listeners, and not earlier:
// they would be closed.
func (s *scanner) comesBack(e *entry) bool {
	if to := s.moved(e); to != nil {
		return !to.taken
	}
	age := s.now.Sub(e.missing)
	if age < Settle {
		s.wake(Settle - age)
	}
	return age < Settle
}

// inode is what a file keeps when it is renamed. Its number may be another's later.
type inode struct{ dev, ino uint64 }

func (s signature) inode() inode { return inode{s.dev, s.ino} }

// moved is the entry that has e's file now; nil: none, or e was a link, whose target
// may have several.
func (s *scanner) moved(e *entry) *entry {
	if e.sig.linkTarget != "" {
		return nil
	}
	if s.files == nil {
		s.files = map[inode]*entry{}
		for _, o := range s.m.entries {
			if o.seen && o.sig.linkTarget == "" {
				s.files[o.sig.inode()] = o
			}
		}
	}
	to := s.files[e.sig.inode()]
	if to == nil || to.born != e.born || to.born == 0 && (to.sig.mtime != e.sig.mtime || to.sig.size != e.sig.size) {
		return nil
	}
	return to
}
