package inifile

import (
	"fmt"
	"strconv"
	"strings"

	"liege/vassal"
)

// gateways are the options of listeners for web servers, but for socket.
var gateways = map[string]vassal.Protocol{
	"uwsgi-socket": vassal.UWSGI, "puwsgi-socket": vassal.PUWSGI,
	"fastcgi-socket": vassal.FastCGI, "fastcgi-nph-socket": vassal.FastCGINPH,
	"scgi-socket": vassal.SCGI, "scgi-nph-socket": vassal.SCGINPH,
}

// gateway handles those, and which handlers their peers may ask for.
func (d *decoder) gateway(v value) bool {
	switch v.opt.Name {
	case "remap-modifier":
		d.remap(v)
		return true
	case "allowed-modifiers":
		for word := range strings.SplitSeq(v.Value, ",") {
			if n, ok := d.modifierNumber(v, word); ok {
				d.cfg.App.Modifiers.Allowed = append(d.cfg.App.Modifiers.Allowed, n)
			}
		}
		return true
	}
	p, ok := gateways[v.opt.Name]
	if ok {
		d.listen(v, p)
	}
	return ok
}

// remap reads FROM:TO[,FROM:TO…].
func (d *decoder) remap(v value) {
	for pair := range strings.SplitSeq(v.Value, ",") {
		from, to, ok := strings.Cut(pair, ":")
		if !ok {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not FROM:TO", clip(pair)), "remap-modifier = 30:0")
			return
		}
		n, ok := d.modifierNumber(v, from)
		m, ok2 := d.modifierNumber(v, to)
		if ok && ok2 {
			d.cfg.App.Modifiers.Remap = append(d.cfg.App.Modifiers.Remap, [2]uint8{n, m})
		}
	}
}

func (d *decoder) modifierNumber(v value, text string) (uint8, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 8)
	if err != nil {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a modifier: a number from 0 to 255", clip(text)), v.opt.Name+" = …")
		return 0, false
	}
	return uint8(n), true
}

// protocol is what socket lines speak.
func (d *decoder) protocol(v value) {
	switch p := firstWord(v.Value); p {
	case "http", "http11":
		d.proto = vassal.HTTP
	case "uwsgi", "puwsgi", "fastcgi", "fastcgi-nph", "scgi", "scgi-nph":
		d.proto = vassal.Protocol(p)
	case "https", "suwsgi":
		d.err(vassal.CodeRefused, v.Setting, "socket lines have no place for the certificate that "+p+" needs", p+"-socket = ADDRESS,certificate,key")
	case "raw":
		d.err(vassal.CodeRefused, v.Setting, rawRefused, "protocol = uwsgi, or protocol = http")
	default:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a protocol", clip(p)), "protocol = uwsgi, fastcgi, scgi or http")
	}
}

const rawRefused = "a worker is not given the connection itself: requests come by HTTP, uwsgi, FastCGI or SCGI"

// modifierOption is the option that says who answers the requests of l.
func modifierOption(l *vassal.Listener) string {
	switch l.Protocol {
	case vassal.HTTP:
		if l.Key == "http" {
			return "http-modifier1"
		}
		return "http-socket-modifier1"
	case vassal.HTTPS:
		if l.Key == "https-socket" {
			return "https-socket-modifier1"
		}
		return "http-modifier1"
	case vassal.FastCGI, vassal.FastCGINPH:
		return "fastcgi-modifier1"
	case vassal.SCGI, vassal.SCGINPH:
		return "scgi-modifier1"
	}
	return ""
}
