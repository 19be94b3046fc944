package listen

import (
	"errors"
	"fmt"
)

// Store has systemd keep the sockets of the Set, of which nothing runs that
// would hold them if this process were killed. It returns those that it keeps.
func (s *Set) Store() ([]Bound, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reg.Store == nil {
		return nil, nil
	}
	var kept []Bound
	var errs []error
	for _, k := range s.current {
		b := k.public()
		name := StoredName(b.Cookie)
		if err := s.reg.Store.Put(name, k.file); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.bound, err))
			continue
		}
		k.stored = name
		kept = append(kept, b)
	}
	return kept, errors.Join(errs...)
}

// StoredName is the name under which systemd keeps the socket with a cookie.
func StoredName(cookie uint64) string { return fmt.Sprintf("listen-%x", cookie) }

// Leave says that this Emperor ends and another one may follow: what is stored
// is left as it is, for that one.
func (r *Registry) Leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = true
}
