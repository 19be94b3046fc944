package static

import (
	"log/slog"
	"path"
	"regexp"
	"strconv"
	"strings"

	"liege/serve/exchange"
	"liege/vassal"
)

// packed are the static-gzip* options: for which files a compressed neighbour
// is looked for.
type packed struct {
	all  bool
	dirs []string // of the file's path, as text
	exts []string
	res  []*regexp.Regexp
}

func newPacked(g vassal.StaticGzip, log *slog.Logger) *packed {
	p := &packed{all: g.All, dirs: g.Dirs, exts: g.Exts}
	for _, s := range g.Match {
		re, err := regexp.Compile(s)
		if err != nil {
			log.Error("static-gzip", "err", err) // found by check already
			continue
		}
		p.res = append(p.res, re)
	}
	if !p.all && len(p.dirs)+len(p.exts)+len(p.res) == 0 {
		return nil
	}
	return p
}

// byFile reports whether the file's path decides.
func (p *packed) byFile() bool { return p != nil && !p.all }

// wants reports whether the file at real may have neighbours.
func (p *packed) wants(real string) bool {
	if p.all {
		return true
	}
	for _, d := range p.dirs {
		if strings.HasPrefix(real, d) {
			return true
		}
	}
	for _, e := range p.exts {
		if strings.HasSuffix(real, e) {
			return true
		}
	}
	for _, re := range p.res {
		if re.MatchString(real) {
			return true
		}
	}
	return false
}

// neighbours are what lies beside a file, the smallest first.
var neighbours = [...]struct{ coding, ext string }{{"br", ".br"}, {"zstd", ".zst"}, {"gzip", ".gz"}}

// choose puts the compressed neighbour that the client takes in f's place, if
// there is one. The name, and so the type, stays the file's own. vary says
// that another client may get another one.
func (p *packed) choose(h *Handler, r *exchange.Request, f *found, real string) (vary bool, coding string) {
	if p == nil || f.whole || !p.wants(real) {
		return false, ""
	}
	accept := r.Get("HTTP_ACCEPT_ENCODING")
	if accept == "" {
		return true, ""
	}
	for _, n := range neighbours {
		if !Accepts(accept, n.coding) {
			continue
		}
		o, _ := h.beneath(f.dir, f.name+n.ext) // whatever is wrong with it: there is the file
		switch {
		case o.File == nil:
			continue
		case o.isDir:
			o.Close()
			continue
		}
		f.Close()
		f.File, f.size, f.mtime, f.nsec = o.File, o.size, o.mtime, o.nsec
		return true, n.coding
	}
	return true, ""
}

// Accepts reports whether an Accept-Encoding field takes coding with a weight
// above 0 (RFC 9110 12.5.3). "*" takes gzip only: what a client does not name
// it may not know.
func Accepts(field, coding string) bool {
	star := false
	for item := range strings.SplitSeq(field, ",") {
		name, params, _ := strings.Cut(item, ";")
		name = strings.TrimSpace(name)
		own := strings.EqualFold(name, coding) || coding == "gzip" && strings.EqualFold(name, "x-gzip")
		if !own && name != "*" {
			continue
		}
		ok := weight(params) > 0
		if own {
			return ok
		}
		star = ok && coding == "gzip"
	}
	return star
}

// weight is the q of a field's item; 1 when there is none, 0 when it is not a
// number.
func weight(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(param), "=")
		if ok && strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || q != q {
				return 0
			}
			return q
		}
	}
	return 1
}

// real is the path of f without symbolic links.
func (f *found) real() string {
	switch {
	case f.whole:
		return f.dir.Real()
	case f.link != "":
		return f.link
	}
	return path.Join(f.dir.Real(), f.name)
}
