package main

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// ownServers are the programs that serve by themselves, PHP and the daemons.
func ownServers(a *vassal.App) (out []explained) {
	if x := a.Exec; x != nil {
		at := "$PORT or $LIEGE_SOCKET"
		if x.Port > 0 {
			at = fmt.Sprintf("port %d", x.Port)
		}
		if x.H2C {
			at += ", by HTTP/2 without TLS"
		}
		out = append(out, explained{strings.Join(x.Command, " "), fmt.Sprintf("%d %s, at %s", x.Processes, plural(x.Processes, "process", "processes"), at), origin(x.At)})
	}
	if p := a.PHP; p != nil {
		out = append(out, explained{p.Program, fmt.Sprintf("PHP below %s, %d %s", or(p.Docroot, "the document root of the request"), p.Processes,
			plural(p.Processes, "process", "processes")), origin(p.At)})
	}
	for _, d := range a.Daemons {
		out = append(out, explained{d.Command, "daemon", origin(d.At)})
	}
	return out
}
