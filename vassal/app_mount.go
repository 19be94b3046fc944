package vassal

import "strings"

// Mounting is which of several applications answers a request: uWSGI's mount
// and its kin. The first of Mounts is App.Workers' own.
type Mounting struct {
	Mounts    []Mount `json:"mounts,omitempty"`      // none: there is one application, and Manage has nothing to do
	Default   int     `json:"default"`               // index of the one for requests that no mount point is for; -1: they get 404
	Manage    bool    `json:"manage,omitempty"`      // manage-script-name: the mount point goes from PATH_INFO to SCRIPT_NAME
	Ignore    bool    `json:"ignore,omitempty"`      // ignore-script-name: what the front end sent as SCRIPT_NAME is dropped
	OneForAll bool    `json:"one_for_all,omitempty"` // single-interpreter: every worker process holds all of them
}

// Mount is one application and where it is mounted.
type Mount struct {
	Point    string `json:"point"`              // begins with a slash and does not end in one; empty: /
	Language string `json:"language,omitempty"` // "ruby", "perl": of File; empty: Python
	File     string `json:"file,omitempty"`
	Written  string `json:"written,omitempty"` // the same as its line has it; empty: File
	Module   string `json:"module,omitempty"`
	Callable string `json:"callable,omitempty"`
	At       Origin `json:"at"`
}

// Workers are those of the application m, where w are those of the vassal's own,
// which is of the same language.
func (m *Mount) Workers(w Workers) Workers {
	switch {
	case m.Language == "ruby" && w.Ruby != nil:
		rb := *w.Ruby
		rb.File, rb.At, rb.Key = m.File, m.At, "mount"
		w.Ruby = &rb
	case m.Language == "perl" && w.Perl != nil:
		pl := *w.Perl
		pl.File, pl.At, pl.Key = m.File, m.At, "mount"
		w.Perl = &pl
	case w.Python != nil:
		py := *w.Python
		py.File, py.Written, py.Module, py.Callable, py.At, py.Key = m.File, m.Written, m.Module, m.Callable, m.At, "mount"
		w.Python = &py
	}
	return w
}

// Find is the index of the mount whose point a path begins with, the longest
// of several; -1 if there is none. A point ends where a segment does: /app is
// not for /apple.
func (m *Mounting) Find(path string) int {
	best, length := -1, -1
	for i := range m.Mounts {
		p := m.Mounts[i].Point
		if len(p) > length && strings.HasPrefix(path, p) && (len(path) == len(p) || path[len(p)] == '/') {
			best, length = i, len(p)
		}
	}
	return best
}

// Choose is the index of the application for a request with that UWSGI_APPID
// and SCRIPT_NAME; -1 if there is none.
func (m *Mounting) Choose(id, script string) int {
	for _, name := range []string{id, script} {
		if name == "" {
			continue
		}
		name = strings.TrimRight(name, "/")
		for i := range m.Mounts {
			if m.Mounts[i].Point == name {
				return i
			}
		}
	}
	return m.Default
}
