package vassal

import (
	"fmt"
	"strings"
)

// A Name identifies a vassal: its file's name without ".ini", one to 200
// bytes of [A-Za-z0-9_.-] that do not begin with a dot or a dash. It is safe
// as a path component, but may be any other word of this world too
// ("cgroup.procs", "memory.max"): what is made from it carries a prefix, see
// Dir.
type Name string

// MaxName is the longest Name in bytes: with every prefix and suffix that is
// put on it, it still fits NAME_MAX (255).
const MaxName = 200

// ParseName returns s as a Name, or an error that says what is wrong with it.
func ParseName(s string) (Name, error) {
	if s == "" || len(s) > MaxName {
		return "", fmt.Errorf("vassal name %q: want 1 to %d characters, got %d", clip(s), MaxName, len(s))
	}
	for i := range len(s) {
		if !nameByte(s[i], i == 0) {
			return "", fmt.Errorf("vassal name %q: character %q is not allowed there; use %q", clip(s), s[i], SuggestName(s))
		}
	}
	return Name(s), nil
}

// SuggestName returns the nearest valid Name to s.
func SuggestName(s string) Name {
	b := []byte(s)
	for i := range b {
		if !nameByte(b[i], false) {
			b[i] = '_'
		}
	}
	t := strings.TrimLeft(string(b), ".-")
	if t == "" {
		t = "vassal"
	}
	return Name(t[:min(len(t), MaxName)])
}

// Dir is the name of everything made for the vassal in a directory shared
// with other names: its run directory, its cgroup.
func (n Name) Dir() string { return "v-" + string(n) }

// Hostname is the name cut to the 63 characters that a host name may have, at
// a dot or dash where there is one, with underscores as dashes.
func (n Name) Hostname() string {
	s := strings.ReplaceAll(string(n), "_", "-")
	if len(s) > 63 {
		cut := s[:64]
		if i := strings.LastIndexAny(cut, ".-"); i > 0 {
			s = cut[:i]
		} else {
			s = s[:63]
		}
	}
	return strings.Trim(s, ".-")
}

func nameByte(c byte, first bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		return true
	}
	return !first && (c == '.' || c == '-')
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
