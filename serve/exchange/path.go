package exchange

import "strings"

// Path is PATH_INFO as everything reads it that chooses by it: routing rules,
// mount points, and what finds files and programs. All of them see one path, so
// that a rule which keeps somebody away from it cannot be passed by writing it
// otherwise. An application gets PATH_INFO as the client wrote it: "//" may be
// a part of its URLs (/proxy/http://host).
func (r *Request) Path() string { return Collapse(r.Get("PATH_INFO")) }

// Collapse is the decoded path p without empty and dot segments, as a file
// system understands it and as nginx's locations see it (merge_slashes). It
// begins with "/" but where p is empty or "*", ends with one where p names a
// directory, and never leads above "/".
func Collapse(p string) string {
	if p == "" || p == "*" || p[0] == '/' && !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return p
	}
	out := make([]byte, 0, len(p)+1)
	directory := false
	for seg := range strings.SplitSeq(p, "/") {
		directory = seg == "" || seg == "." || seg == ".."
		switch {
		case seg == "..":
			for len(out) > 0 && out[len(out)-1] != '/' {
				out = out[:len(out)-1]
			}
			out = out[:max(len(out)-1, 0)]
		case !directory:
			out = append(append(out, '/'), seg...)
		}
	}
	if directory {
		out = append(out, '/')
	}
	return string(out)
}

// Behind is what PATH_INFO has behind point, a beginning of Path that ends
// where a segment does: as the client wrote it, unless it is a way round dot
// segments.
func (r *Request) Behind(point string) string {
	p := r.Get("PATH_INFO")
	want := Collapse(p)[len(point):]
	for seg := range strings.SplitSeq(strings.Trim(point, "/"), "/") {
		rest, ok := strings.CutPrefix(strings.TrimLeft(p, "/"), seg)
		if seg == "" {
			continue
		}
		if !ok {
			return want
		}
		p = rest
	}
	if Collapse(p) != want {
		return want
	}
	return p
}

// Unprefix takes SCRIPT_NAME off the front of PATH_INFO, where it ends with a
// segment; uWSGI takes as many bytes, whatever they are, and would leave
// "admin" of /appadmin.
func (r *Request) Unprefix() {
	point := Collapse(strings.TrimRight(r.Get("SCRIPT_NAME"), "/"))
	rest, ok := strings.CutPrefix(r.Path(), point)
	if ok && (rest == "" || rest[0] == '/') {
		r.Set("PATH_INFO", r.Behind(point))
	}
}
