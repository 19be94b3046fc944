package vassal

import (
	"slices"
	"strings"
)

// RunDir is the run directory where emperor.ini names no other.
const RunDir = "/run/liege"

// socketEnds are what names of sockets in the run directory have after that of
// their vassal.
var socketEnds = []string{".fastcgi.sock", ".https.sock", ".uwsgi.sock", ".stats.sock", ".http.sock", ".scgi.sock", ".sock"}

// RunOwner is the vassal whose name the path rest, below the run directory, has;
// empty: none can. The longest end counts, so that a name is one vassal's whoever is
// there, and whoever was there first: shop.http.sock is shop's, and not that of a
// vassal shop.http.
func RunOwner(rest string) Name {
	first, _, _ := strings.Cut(rest, "/")
	for _, end := range socketEnds { // of two that fit, the longer one comes first
		if stem, ok := strings.CutSuffix(first, end); ok {
			first = stem
			break
		}
	}
	n, err := ParseName(first)
	if err != nil {
		return ""
	}
	return n
}

// RunSocket reports whether the path rest, below the run directory, is one at which
// n has sockets: n.sock, n.http.sock and the like, or what is in the directory n.
func (n Name) RunSocket(rest string) bool {
	first, _, inside := strings.Cut(rest, "/")
	return RunOwner(rest) == n && inside == (first == string(n))
}

// emperorsRun is what the Emperor has in its run directory, and what has a meaning
// in a sandbox.
var emperorsRun = []string{"control.sock", "control.sock.new", "control-users.sock", "control-users.sock.new",
	"lock", "cgroup", "cgroup.tmp", "vassals", "sandbox", "mail", "sendmail.sock"}

// EmperorsRun reports whether the path rest, below the run directory, is the
// Emperor's own.
func EmperorsRun(rest string) bool {
	first, _, _ := strings.Cut(rest, "/")
	return slices.Contains(emperorsRun, first)
}
