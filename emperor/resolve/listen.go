package resolve

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/inifile"
)

// network checks net against the ceilings.
func (r *resolver) network() {
	at := r.cfg.Jail.NetAt
	if r.res.Net == "none" {
		return
	}
	if r.host.Caller != nil || r.cfg.Trust.Operator && r.host.Nets == nil {
		return
	}
	if !slices.Contains(r.host.Nets, r.res.Net) {
		r.fail(vassal.CodeOverCeiling, at, "net", fmt.Sprintf("net = %s is not allowed here", r.res.Net), fmt.Sprintf("[ceilings] net = %s in emperor.ini", r.res.Net))
	}
}

// listeners gives every listener its full address and refuses what clashes
// inside one file (CONTRACT 6).
func (r *resolver) listeners() {
	for _, l := range r.cfg.Listen {
		written := l.Address
		addr, err := r.address(l.Address)
		if err != nil {
			r.fail(vassal.CodeBadValue, l.At, l.Key, err.Error(), "HOST:PORT, :PORT, /path/of/a.sock or @name")
			continue
		}
		if strings.Trim(written, "0123456789") == "" {
			r.warn(vassal.CodeBadValue, l.At, l.Key, fmt.Sprintf("%s is a socket in the app's directory, as for uWSGI, and no port", written), l.Key+" = :"+written)
		}
		l.Address, l.TLS = addr, r.keyPair(l.TLS)
		if i := slices.IndexFunc(r.res.Listen, func(o vassal.Listener) bool { return o.Address == addr }); i >= 0 {
			o := r.res.Listen[i]
			if o.Protocol == l.Protocol && !sameFiles(o.TLS, l.TLS) {
				r.fail(vassal.CodeListenInUse, l.At, l.Key, fmt.Sprintf("%s has another certificate by %s (%s:%d)", addr, o.Key, r.at(o.At).File, o.At.Line), "sni = NAME certificate,key")
				continue
			}
			if o.Protocol == l.Protocol {
				r.report(vassal.Note, vassal.CodeListenInUse, r.at(l.At), l.Key, fmt.Sprintf("%s is named by %s (line %d) already: one listener", addr, o.Key, o.At.Line), "")
				continue
			}
			r.fail(vassal.CodeListenInUse, l.At, l.Key, fmt.Sprintf("%s speaks %s by %s (%s:%d) and cannot speak %s too", addr, o.Protocol, o.Key, r.at(o.At).File, o.At.Line, l.Protocol), "")
			continue
		}
		if !r.wakes(l) && !r.mayListen(addr, l.At) {
			r.notHere(l, addr)
			continue
		}
		l.Tenant = r.bounded(l.At)
		l.ByUser = l.Tenant && r.inOwn(addr) || r.lentBase(addr, written)
		r.res.Listen = append(r.res.Listen, l)
	}
}

// notHere says that a tenant's line may not listen on addr.
func (r *resolver) notHere(l vassal.Listener, addr string) {
	msg, own := "a file of a user may not listen on "+addr, ""
	if !r.host.Nameless {
		own = fmt.Sprintf(" or %s/%s.sock", r.host.runDirs()[0], r.cfg.Name)
	}
	hint := "a socket in the app's directory" + own + ", or [ceilings] listen in emperor.ini"
	if r.nobodys(addr) {
		msg += ": names there are those of the Emperor's vassals, and this file is none"
		hint = "a socket in the app's directory"
	}
	r.fail(vassal.CodeOverCeiling, l.At, l.Key, msg, hint)
}

// address is the canonical form of a listener's address.
func (r *resolver) address(a string) (string, error) {
	switch {
	case a == "":
		return "", fmt.Errorf("no address")
	case a[0] == '@':
		if len(a) == 1 || len(a) > 107 {
			return "", fmt.Errorf("%q: an abstract name has 1 to 106 bytes", a)
		}
		return a, nil
	case strings.HasPrefix(a, "unix:"):
		return r.unix(a[len("unix:"):])
	case strings.Contains(a, "://"):
		return "", fmt.Errorf("%q is a URL, and no address to listen on", a)
	case a[0] == '/' || a[0] == '.' || !strings.Contains(a, ":"):
		return r.unix(a)
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		if strings.Contains(a, "/") {
			return r.unix(a)
		}
		return "", fmt.Errorf("%q is not an address: %s", a, addrReason(err))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("%q: the port is a number from 0 to 65535", a)
	}
	switch host {
	case "", "*":
		host = "0.0.0.0" // as uWSGI: IPv4
	case "localhost":
		host = "127.0.0.1" // so that both names are one listener
	default:
		if _, err := netip.ParseAddr(host); err != nil && strings.Trim(host, "0123456789.") == "" {
			return "", fmt.Errorf("%q: %s is not an IPv4 address", a, host)
		}
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

func addrReason(err error) string {
	if e, ok := errors.AsType[*net.AddrError](err); ok {
		return e.Err
	}
	return err.Error()
}

// maxUnix is the longest path of a unix socket: sun_path less its NUL.
const maxUnix = 107

func (r *resolver) unix(p string) (string, error) {
	if p == "" {
		return "", fmt.Errorf("no path")
	}
	p = r.abs(p)
	if len(p) > maxUnix {
		return "", fmt.Errorf("%s: a socket's path has at most %d bytes, this has %d", p, maxUnix, len(p))
	}
	return p, nil
}

// bounded reports whether the line at is a tenant's whose sockets somebody else's
// rights make: the Emperor's, or those of root that serves a file by hand.
func (r *resolver) bounded(at vassal.Origin) bool {
	return r.cfg.Tenant(at) && (r.host.Caller == nil || r.host.Caller.UID == 0)
}

// mayListen applies [ceilings] listen to tenants' lines.
func (r *resolver) mayListen(addr string, at vassal.Origin) bool {
	if !r.bounded(at) {
		return true
	}
	return !r.emperors(addr) && !r.nobodys(addr) && !r.anothers(addr) && (r.ruled(addr) || r.inOwn(addr))
}

// wakes reports whether l is the socket that the operator, and no file beside the
// vassal's, names for the vassal.
func (r *resolver) wakes(l vassal.Listener) bool {
	return l.Key == inifile.OnDemandDirectory || l.Key == inifile.OnDemandExec
}

// anothers reports whether path is in the directory of emperor-on-demand-directory
// and is not the vassal's there: it may wake another.
func (r *resolver) anothers(path string) bool {
	return slices.ContainsFunc(r.host.OnDemandDirs, func(dir string) bool {
		return within(path, dir) && (r.host.Nameless || path != dir+"/"+string(r.cfg.Name)+".socket")
	})
}

// nobodys reports whether path is in the run directory of an Emperor that has not the
// vassal: another may have its name, also one that is stopped.
func (r *resolver) nobodys(path string) bool {
	return r.host.Nameless && slices.ContainsFunc(r.host.runDirs(), func(dir string) bool { return within(path, dir) })
}

// emperors reports whether path is an Emperor's own: of this one, or of another in
// the usual place.
func (r *resolver) emperors(path string) bool {
	return slices.ContainsFunc(slices.Concat(r.host.runDirs(), []string{vassal.RunDir}), func(dir string) bool {
		rest, in := strings.CutPrefix(path, dir+"/")
		return in && vassal.EmperorsRun(rest)
	})
}

// ruled reports whether a tenant's file may have root make a socket at addr. In the
// run directory it is what has the vassal's name: whoever connects to another name
// may mean another vassal, also one that is gone or to come. Names are domains
// often, so example.co has no say in example.co.uk.sock.
func (r *resolver) ruled(addr string) bool {
	return slices.ContainsFunc(r.host.runDirs(), func(dir string) bool {
		rest, in := strings.CutPrefix(addr, dir+"/")
		return in && r.cfg.Name.RunSocket(rest)
	}) || slices.ContainsFunc(r.host.Listen, func(rule string) bool { return listenRule(rule, addr) && r.means(rule, addr) })
}

// means reports whether a rule that covers addr was written with it in mind: one that
// is wider than a directory of Liege's does not reach into that.
func (r *resolver) means(rule, addr string) bool {
	return !slices.ContainsFunc(slices.Concat(r.host.Reserved, r.host.runDirs(), []string{vassal.RunDir}), func(dir string) bool {
		return within(addr, dir) && !within(rule, dir)
	})
}

// inOwn reports whether addr is a socket that a tenant's line puts where its
// user makes it: in the app's directory, which the file chose. That may be any
// directory of the host, /run/systemd and /usr too, so root makes nothing there.
func (r *resolver) inOwn(addr string) bool {
	if r.ruled(addr) || r.res.Dir == "" || !within(addr, r.res.Dir) {
		return false
	}
	return r.inBinds(r.res.Dir) && !slices.ContainsFunc(r.host.Reserved, func(p string) bool { return within(addr, p) })
}

// lentBase reports whether the operator's line means a socket in a directory that
// a user's line names: root makes nothing there either.
func (r *resolver) lentBase(addr, written string) bool {
	return r.cfg.Trust.Operator && r.res.BaseByUser && addr[0] == '/' && !path.IsAbs(strings.TrimPrefix(written, "unix:"))
}

// listenRule reports whether a rule such as 127.0.0.1:1024-65535 or
// /run/liege/**, or a shell pattern covers addr.
func listenRule(rule, addr string) bool {
	if dir, ok := strings.CutSuffix(rule, "/**"); ok {
		return addr[0] == '/' && strings.HasPrefix(addr, path.Clean(dir)+"/")
	}
	ok, err := path.Match(rule, addr)
	fits := ok && err == nil || rule == addr
	if unix := addr[0] == '/' || addr[0] == '@'; unix || fits {
		return fits && (!unix || rule == "*" || rule[0] == addr[0]) // *:80 is no @name:80
	}
	rh, rp, err1 := net.SplitHostPort(rule)
	ah, ap, err2 := net.SplitHostPort(addr)
	if err1 != nil || err2 != nil || rh != ah && rh != "*" {
		return false
	}
	if rp == "*" {
		return true
	}
	lo, hi, ranged := strings.Cut(rp, "-")
	if !ranged {
		hi = lo
	}
	l, err1 := strconv.Atoi(lo)
	h, err2 := strconv.Atoi(hi)
	p, err3 := strconv.Atoi(ap)
	return err1 == nil && err2 == nil && err3 == nil && l <= p && p <= h
}
