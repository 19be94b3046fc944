package inifile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
	"liege/vassal/connect"
	"liege/vassal/route"
)

// connect reads one address of a connect line.
func (d *decoder) connect(v value, word string) {
	addr, wrong, hint := connect.Parse(word)
	if wrong != "" {
		if hint != "" && !strings.Contains(hint, " ") {
			hint = "connect = " + hint
		}
		d.err(vassal.CodeBadValue, v.Setting, wrong, hint)
		return
	}
	d.connection(vassal.Connection{Address: addr, Key: v.Key, At: v.Origin, Tenant: d.tenant(v.Setting)})
}

// sendmail reads where mail goes: an address like those of connect, or no. What
// the operator said of an address counts more than a tenant's repeating it.
func (d *decoder) sendmail(v value) {
	j := &d.cfg.Jail
	word := firstWord(v.Value)
	if isFalse(word) {
		j.Sendmail = vassal.Connection{Key: v.Key, At: v.Origin}
		return
	}
	addr, wrong, hint := connect.Parse(word)
	if wrong != "" || len(strings.Fields(v.Value)) != 1 {
		switch {
		case wrong == "":
			wrong, hint = "it is one address, or no", "sendmail = 127.0.0.1:25"
		case hint == "" || strings.Contains(hint, ","): // nothing like an address
			hint = "sendmail = 127.0.0.1:25"
		case !strings.Contains(hint, " "):
			if host, ok := strings.CutSuffix(hint, ":5432"); ok { // where connect.Parse says what a port looks like
				hint = host + ":25"
			}
			hint = "sendmail = " + hint
		}
		d.err(vassal.CodeBadValue, v.Setting, wrong, hint)
		return
	}
	c := vassal.Connection{Address: addr, Key: v.Key, At: v.Origin, Tenant: d.tenant(v.Setting)}
	if !slices.Contains(j.Mailers, addr) {
		j.Mailers = append(j.Mailers, addr)
	} else if c.Tenant {
		c.Tenant = !slices.Contains(d.mailers, addr)
	}
	if !c.Tenant {
		d.mailers = append(d.mailers, addr)
	}
	j.Sendmail = c
}

// connection adds c, unless it is there. The operator's word counts more than
// a tenant's for the same address.
func (d *decoder) connection(c vassal.Connection) {
	all := d.cfg.Jail.Connect
	switch i := slices.IndexFunc(all, func(o vassal.Connection) bool { return o.Address == c.Address }); {
	case i >= 0 && all[i].Tenant && !c.Tenant:
		all[i] = c
	case i >= 0:
	case len(all) == vassal.MaxConnections:
		d.err(vassal.CodeTooBig, Setting{Key: c.Key, Origin: c.At}, fmt.Sprintf("%s: a vassal may connect to at most %d addresses", c.Address, vassal.MaxConnections), "net = host, if the operator allows it")
	default:
		d.cfg.Jail.Connect = append(all, c)
	}
}

// reachedFrom sees to an upstream that a line names, once all lines are known.
// One that an operator's file names by its address is one more that the vassal
// may connect to (CONTRACT 5); another has to be named by connect, and is warned
// about when nothing can reach it.
func (d *decoder) reachedFrom(s Setting, what, addr string) {
	if route.Address(addr) != nil || strings.Contains(addr, "$") {
		return // the address is in the request
	}
	theirs := d.tenant(s) || slices.Contains(d.theirs, s.Origin)
	d.upstreams = append(d.upstreams, func() { d.reach(s, what, addr, theirs) })
}

// finishUpstreams sees to the upstreams of the file.
func (d *decoder) finishUpstreams() {
	for _, see := range d.upstreams {
		see()
	}
}

func (d *decoder) reach(s Setting, what, addr string, theirs bool) {
	if d.pol.Serve || d.listensOn(addr) {
		return // there is no sandbox, or it is the vassal itself
	}
	named := addr
	if what != "" {
		what += ": "
	}
	if port, ok := strings.CutPrefix(addr, "localhost:"); ok {
		addr = "127.0.0.1:" + port // as /etc/hosts inside has it
	}
	canonical, wrong, _ := connect.Parse(addr)
	j := &d.cfg.Jail
	switch {
	case slices.ContainsFunc(j.Connect, func(c vassal.Connection) bool { return c.Address == canonical }):
	case wrong == "" && !theirs:
		d.connection(vassal.Connection{Address: canonical, Key: s.Key, At: s.Origin})
	case j.Net == "host" || j.Net == "nat" || path.IsAbs(strings.TrimPrefix(addr, "unix:")):
	case wrong == "":
		d.warn(vassal.CodeNotReachable, s, fmt.Sprintf("%s%s is not reached from the vassal's own network", what, named), "connect = "+canonical)
	default:
		d.warn(vassal.CodeNotReachable, s, fmt.Sprintf("%s%s is not reached from the vassal's own network", what, named), "write the address instead of the name, or net = host")
	}
}
