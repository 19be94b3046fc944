package inifile

import (
	"fmt"
	"math/bits"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"liege/vassal"
)

// magic has the variables of one file: %x, one character. The upper-case forms
// are those of the vassal's own file and mean the same in every template.
type magic struct {
	name    string // as given: %o
	path    string // absolute: %p
	section string // %x, empty if none was named
	inode   uint64
	own     *magic // of the vassal's file; nil: this is it
}

func (m *magic) lookup(r *reader, c byte) (value string, ok bool) {
	if m.own != nil && strings.IndexByte("OPSDENCXIJ", c) >= 0 {
		return m.own.file(c + 'a' - 'A')
	}
	if strings.IndexByte("OPSDENCXIJ", c) >= 0 {
		return m.file(c + 'a' - 'A')
	}
	if v, ok := m.file(c); ok {
		return v, true
	}
	return r.world(c)
}

// file has the variables that come from the file's name.
func (m *magic) file(c byte) (string, bool) {
	base := path.Base(m.path)
	dir := strings.TrimSuffix(path.Dir(m.path), "/") + "/"
	ext := path.Ext(base)
	switch c {
	case 'o':
		return m.name, true
	case 'p':
		return m.path, true
	case 's':
		return base, true
	case 'd':
		return dir, true
	case 'e':
		return strings.TrimPrefix(ext, "."), true
	case 'n':
		return strings.TrimSuffix(base, ext), true
	case 'c':
		if dir == "/" {
			return "", true
		}
		return path.Base(path.Dir(m.path)), true
	case 'x':
		return m.section, true
	case 'i':
		return strconv.FormatUint(m.inode, 10), true
	case 'j':
		return fmt.Sprintf("%08X", bits.ReverseBytes32(djb33x(m.path))), true
	}
	if c >= '0' && c <= '9' {
		parts := strings.Split(strings.Trim(dir, "/"), "/")
		if i := int(c - '0'); i < len(parts) {
			return parts[i], true
		}
		return "", true
	}
	return "", false
}

// djb33x is the hash of %j, which shows its bytes as they lie in memory.
func djb33x(s string) uint32 {
	h := uint32(5381)
	for i := range len(s) {
		h = (h<<5 + h) ^ uint32(s[i])
	}
	return h
}

// world has the variables that come from elsewhere.
func (r *reader) world(c byte) (string, bool) {
	switch c {
	case 'v':
		return r.cwd, true
	case 'V':
		return r.opt.Version, true
	case 'b':
		return r.opt.Binary, true
	case 'h':
		return r.hostname(), true
	case '[':
		return "\x1b", true
	case 'k':
		n := strconv.Itoa(r.host.CPUs())
		r.answered("cpus", "", n)
		return n, true
	case 't', 'T':
		// Not part of the digest: a file that shows the time would never
		// count as applied.
		sec, usec := r.host.UnixTime()
		if c == 'T' {
			sec = usec
		}
		return strconv.FormatInt(sec, 10), true
	case 'u', 'U', 'g', 'G':
		uid, user, gid, group := r.host.User()
		r.answered("user", "", uid, user, gid, group)
		return map[byte]string{'u': strconv.Itoa(uid), 'U': user, 'g': strconv.Itoa(gid), 'G': group}[c], true
	}
	return "", false
}

// substitute replaces the magic variables of one side of a line. uWSGI removes
// "%" and any character it does not know, and at the end of a line joins it
// with the next; here that text stays, with a warning. What a variable brings
// is data: a directory named "$(X)" is not expanded later.
func (r *reader) substitute(m *magic, key, s string, at place) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 == len(s) {
			b.WriteByte('%')
			r.warn(at, key, vassal.CodeVanishedPercent, `a "%" at the end of the line stays; uWSGI would have joined the next line`, "write %%")
			break
		}
		c := s[i+1]
		switch {
		case c == '(':
			b.WriteByte('%')
			continue // left for the placeholders
		case c == '%':
			b.WriteString(guard("%"))
			i++
			continue
		}
		v, ok := m.lookup(r, c)
		if !ok {
			_, n := utf8.DecodeRuneInString(s[i+1:])
			r.warn(at, key, vassal.CodeVanishedPercent, fmt.Sprintf(`%q is no variable and stays; uWSGI would have removed it`, s[i:i+1+n]), "write %%"+s[i+1:i+1+n])
			b.WriteByte('%')
			continue
		}
		if v == "" && c >= '0' && c <= '9' || key == "env" {
			r.warn(at, key, vassal.CodeVanishedPercent, fmt.Sprintf("%q became %q", s[i:i+2], v), "write %%"+s[i+1:i+2])
		}
		if strings.ContainsAny(v, "\n\r\x00") || !utf8.ValidString(v) {
			r.fail(at, key, vassal.CodeVanishedPercent, fmt.Sprintf("%q stands for a name with a line end or with bytes that are not UTF-8", s[i:i+2]), "rename the file or directory")
			v = ""
		}
		b.WriteString(guard(v))
		i++
	}
	return b.String()
}

// guard hides the characters that begin an expansion in s, which is data. The
// bytes it puts there are never part of UTF-8, so they cannot occur in s.
func guard(s string) string { return guarder.Replace(s) }

// unguard gives the text as it is meant.
func unguard(s string) string { return unguarder.Replace(s) }

// Immutable, safe for concurrent use.
var (
	guarder   = strings.NewReplacer("%", "\xf9", "$", "\xfa", "@", "\xfb")
	unguarder = strings.NewReplacer("\xf9", "%", "\xfa", "$", "\xfb", "@", theirs, "")
)

// theirs stands around a user's words in a line of the operator's until that has asked
// what it asks, and is no part of UTF-8 either.
const theirs = "\xfc"
