package resolve

import (
	"fmt"
	"slices"

	"liege/vassal"
	"liege/vassal/connect"
)

// neverDoors are the directories in which no socket can appear: they are the
// host's, read-only, or the kernel's.
var neverDoors = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/dev", "/.liege"}

// connections are the addresses outside that the vassal reaches (CONTRACT 5).
func (r *resolver) connections() {
	for _, c := range r.cfg.Jail.Connect {
		switch {
		case r.host.Caller != nil:
			if c.Key == "connect" {
				r.report(vassal.Note, vassal.CodeDoneOtherwise, r.at(c.At), c.Key, c.Address+" is reached anyway: here the app has the host's network", "")
			}
		case !r.mayConnect(c):
			r.fail(vassal.CodeOverCeiling, c.At, c.Key, "a file of a user may not connect to "+c.Address, "[ceilings] connect = "+c.Address+" in emperor.ini")
		case c.Path() != "":
			r.socket(c)
		case r.res.Net == "host":
			r.report(vassal.Note, vassal.CodeDoneOtherwise, r.at(c.At), c.Key, c.Address+" is reached anyway: net = host", "")
		default:
			r.res.Connect = append(r.res.Connect, c)
		}
	}
	r.mail()
}

// mayConnect reports whether the ceilings let the vassal connect there.
func (r *resolver) mayConnect(c vassal.Connection) bool {
	return !c.Tenant || slices.ContainsFunc(r.host.Connect, func(rule string) bool { return connect.Within(rule, c) })
}

// socket is a unix socket: one in a directory that is bound is there already.
func (r *resolver) socket(c vassal.Connection) {
	p := c.Path()
	switch {
	case r.shows(p):
		if c.Key == "connect" {
			r.report(vassal.Note, vassal.CodeDoneOtherwise, r.at(c.At), c.Key, p+" is visible inside: the app connects to it directly", "")
		}
	case r.emperors(p):
		r.fail(vassal.CodeBadValue, c.At, c.Key, p+" is Liege's own", "")
	case slices.ContainsFunc(neverDoors, func(d string) bool { return within(p, d) }):
		r.fail(vassal.CodeBadValue, c.At, c.Key, fmt.Sprintf("no socket can appear at %s inside", p), "a socket in /run, or the service's TCP address")
	default:
		r.res.Connect = append(r.res.Connect, c)
		if varRun := (Link{"/var/run", "/run"}); within(p, "/run") && !slices.Contains(r.res.Links, varRun) {
			r.res.Links = append(r.res.Links, varRun) // its clients know it by either name
		}
	}
}

// Reaches are the addresses of Connect.
func (r *Result) Reaches() []string {
	var out []string
	for _, c := range r.Connect {
		out = append(out, c.Address)
	}
	return out
}
