package resolve

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"

	"liege/vassal"
	"liege/vassal/connect"
	"liege/vassal/egress"
	"liege/vassal/regular"
)

// Lister is an FS that can also list a directory: the names of at most max
// entries, in any order. dir has no link on its way.
type Lister interface {
	List(dir string, max int) []string
}

// List implements Lister.
func (OS) List(dir string, max int) []string {
	names, _ := regular.List(dir, max) // what cannot be looked at is not warned about
	return names
}

// Bounds of what is looked at before a start: it is help, not a check.
const (
	maxListed  = 200 // entries of one directory
	maxMissing = 8   // warnings of one kind
)

// missing says what the app will look for and not find (CONTRACT 4). Under
// liege serve nothing is hidden from it.
func (r *resolver) missing() {
	if r.host.Caller != nil {
		return
	}
	r.danglingInside()
	r.commandPaths()
	seen := map[string]bool{}
	for i, kv := range r.cfg.App.Env {
		if seen[kv] {
			continue
		}
		seen[kv] = true
		var at vassal.Origin
		if i < len(r.cfg.EnvAt) {
			at = r.cfg.EnvAt[i]
		}
		name, value, _ := strings.Cut(kv, "=")
		r.envPath(at, name, value)
		r.envAddress(at, name, value)
	}
}

// danglingInside looks for links at the top of a bound directory that lead to
// what is there on the host and not inside.
func (r *resolver) danglingInside() {
	ls, ok := r.host.FS.(Lister)
	if !ok {
		return
	}
	told := 0
	for _, b := range r.res.Binds {
		if !b.Dir {
			continue
		}
		names := ls.List(b.Source, maxListed)
		slices.Sort(names)
		for _, name := range names {
			link := path.Join(b.Source, name)
			target, err := r.host.FS.Readlink(link)
			if err != nil {
				continue // no link
			}
			w, err := walk(r.host.FS, link)
			written := w.led && (err != nil || w.leader != w.uid)
			if written { // what is there is not for who made the link: only what it says
				w = walked{path: path.Join(b.Source, target)}
				if path.IsAbs(target) {
					w.path = path.Clean(target)
				}
			}
			if err != nil && !written || r.shows(w.path) || r.ownInside(w.path) {
				continue
			}
			if told++; told > maxMissing {
				return
			}
			hint := ""
			if !written {
				hint = r.bindLine(w)
			}
			r.warn(vassal.CodeNotVisible, b.At, b.Why, fmt.Sprintf("%s leads to %s, not visible inside", path.Join(b.Target, name), target), hint)
		}
	}
}

// ownInside reports whether p is one of the places of which each vassal has
// its own.
func (r *resolver) ownInside(p string) bool {
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev", "/tmp", "/var/tmp"}, func(d string) bool { return within(p, d) })
}

// bindLine is the line that would show w: its directory, unless that is one
// that no line may name. Empty: there is none.
func (r *resolver) bindLine(w walked) string {
	if r.wide(w.path) {
		return ""
	}
	dir := w.path
	if !w.info.IsDir() {
		dir = path.Dir(w.path)
	}
	if r.wide(dir) {
		dir = w.path
	}
	return fmt.Sprintf("add \"bind = %s:ro\"", dir)
}

// wide reports whether dir shows more than a line may name without thought.
func (r *resolver) wide(dir string) bool {
	return strings.Count(dir, "/") < 2 || slices.ContainsFunc(neverBound, func(n string) bool { return within(n, dir) }) ||
		slices.ContainsFunc(r.host.Reserved, func(n string) bool { return within(n, dir) || within(dir, n) })
}

// envPath warns about an absolute path in a value that is there on the host
// and not inside. Secrets are no paths that exist, so none is shown.
func (r *resolver) envPath(at vassal.Origin, name, value string) { r.pathOf(at, "env", name, value) }

// pathOf is envPath for the value of another key; name is what names it.
func (r *resolver) pathOf(at vassal.Origin, key, name, value string) {
	if r.cfg.Trust.Operator && r.cfg.ByUser(at) { // what is on the host is not for who wrote it
		return
	}
	if len(value) < 2 || value[0] != '/' || len(value) > 4096 || strings.ContainsAny(value, "\x00\n") {
		return
	}
	p := canonRun(path.Clean(value))
	w, err := walk(r.host.FS, p)
	if err != nil || r.shows(w.path) || r.ownInside(p) || r.ownInside(w.path) {
		return
	}
	r.warn(vassal.CodeNotVisible, at, key, fmt.Sprintf("%s names %s, not visible inside", name, p), r.bindLine(w))
}

// clientSchemes are those of services that an app itself connects to, with
// their ports.
var clientSchemes = map[string]string{
	"postgres": "5432", "postgresql": "5432", "mysql": "3306", "mariadb": "3306", "redis": "6379", "rediss": "6379",
	"mongodb": "27017", "amqp": "5672", "amqps": "5671", "memcached": "11211", "ldap": "389", "ldaps": "636", "smtp": "25", "smtps": "465",
}

// envAddress warns about a scheme://…@host:port that the network setting does
// not reach. Only host and port are shown.
func (r *resolver) envAddress(at vassal.Origin, name, value string) {
	if r.res.Net == "host" || len(value) > 4096 || !strings.Contains(value, "://") {
		return
	}
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" {
		return
	}
	scheme, _, _ := strings.Cut(u.Scheme, "+") // postgresql+psycopg2
	port := u.Port()
	if known := clientSchemes[scheme]; port == "" && known != "" {
		port = known
	}
	if port == "" || r.listensOn(port) {
		return // a name of a site, most likely its own
	}
	host, hint := u.Hostname(), "connect = the address of "+u.Hostname()+" and :"+port
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if addr, wrong, _ := connect.Parse(net.JoinHostPort(host, port)); wrong == "" {
		if slices.Contains(r.res.Reaches(), addr) || r.res.NAT.reaches(addr) {
			return
		}
		hint = "connect = " + addr
		if r.res.NAT != nil && !egress.Forbidden(netip.MustParseAddrPort(addr).Addr()) {
			hint += " for a service of this host, egress = allow " + addr + " for another"
		}
	} else if r.res.NAT != nil {
		return // a name, which is resolved when it is used
	}
	r.warn(vassal.CodeNotReachable, at, "env", fmt.Sprintf("%s names %s, which cannot be reached: the network is %s", name, net.JoinHostPort(u.Hostname(), port), r.res.Net), hint)
}

func (r *resolver) listensOn(port string) bool {
	return slices.ContainsFunc(r.res.Listen, func(l vassal.Listener) bool { return strings.HasSuffix(l.Address, ":"+port) })
}
