package inifile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/connect"
	"liege/vassal/egress"
	"liege/vassal/mail"
)

// ceilingKey handles [ceilings].
func (d *emperorDecoder) ceilingKey(v value) {
	c := &d.c.Ceilings
	words := strings.Fields(v.Value)
	switch v.opt.Name {
	case "memory-max":
		d.c.Policy.MemoryMax = Ceiling{float64(v.n), v.Origin}
	case "cpu-max":
		d.c.Policy.CPUMax = Ceiling{v.f, v.Origin}
	case "pids-max":
		d.c.Policy.PidsMax = Ceiling{float64(v.n), v.Origin}
	case "swap-max":
		d.c.Policy.SwapMax = Ceiling{float64(v.n), v.Origin}
	case "cpu-weight":
		d.c.Policy.CPUWeight = Ceiling{float64(v.n), v.Origin}
	case "net":
		for _, w := range words {
			if !slices.Contains([]string{"none", "private", "nat", "host"}, w) {
				d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a network", clip(w)), "net = host")
			}
		}
		c.Net = append(c.Net, words...)
	case "listen":
		for _, w := range words {
			rule, ok := listenRule(w)
			if !ok {
				d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no address to listen on, and lets nobody", clip(w)), "listen = 127.0.0.1:1024-65535 /home/**")
			}
			c.Listen = append(c.Listen, rule)
		}
	case "connect":
		for _, w := range words {
			if !connect.Rule(w) {
				d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an address to connect to", clip(w)), "connect = 127.0.0.1:3306 10.0.0.0/24:5432 unix:/run/mysqld/mysqld.sock")
			}
		}
		c.Connect = append(c.Connect, words...)
	case "egress":
		for _, w := range words {
			e, wrong, hint := egress.Parse(w)
			if wrong != "" {
				d.err(vassal.CodeBadValue, v.Setting, wrong, strings.ReplaceAll(hint, "egress = allow ", "egress = "))
			}
			c.Egress = append(c.Egress, vassal.Egress{Allow: true, Target: e, At: v.Origin})
		}
	case "sendmail-sender", "sendmail-rate":
		d.mailCeiling(v, words)
	case "bind":
		for _, w := range words {
			if !path.IsAbs(w) {
				d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not an absolute path", clip(w)), "bind = /home /srv")
			}
		}
		c.Bind = append(c.Bind, words...)
	case "min-uid":
		c.MinUID = clampInt(v.n)
	case "root":
		c.Root = v.on
	}
}

func (d *emperorDecoder) mailCeiling(v value, words []string) {
	m := &d.c.Ceilings.Mail
	if v.opt.Name == "sendmail-rate" {
		var ok bool
		if m.Rate, ok = mail.ParseRate(firstWord(v.Value)); !ok {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a rate", clip(v.Value)), "sendmail-rate = 100/h")
		}
		return
	}
	for _, w := range words {
		if !mail.Rule(w) {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a sender", clip(w)), "sendmail-sender = %U@web1.example *@%U.example")
		}
	}
	m.Senders = append(m.Senders, words...)
}

// listenRule is a rule of listen in the form that addresses have; not ok: none can
// ever fit.
func listenRule(w string) (rule string, ok bool) {
	w = strings.TrimPrefix(w, "unix:")
	if w == "*" || strings.HasPrefix(w, "/") || strings.HasPrefix(w, "@") {
		_, err := path.Match(w, "")
		return w, err == nil
	}
	i := strings.LastIndexByte(w, ':')
	if i < 0 || strings.Contains(w, "/") {
		return w, i < 0 && strings.HasSuffix(w, "*") && !strings.Contains(w, "/")
	}
	host, port := w[:i], w[i+1:]
	switch host { // as in an address
	case "":
		host = "0.0.0.0"
	case "localhost":
		host = "127.0.0.1"
	}
	lo, hi, ranged := strings.Cut(port, "-")
	if !ranged {
		hi = lo
	}
	if strings.ContainsAny(port, "*?[") { // a shell pattern, in which a dash means something in brackets only
		_, err := path.Match(port, "")
		return host + ":" + port, err == nil && (!ranged || strings.Contains(port, "["))
	}
	l, err1 := strconv.ParseUint(lo, 10, 16)
	h, err2 := strconv.ParseUint(hi, 10, 16)
	return host + ":" + port, err1 == nil && err2 == nil && l <= h
}

// plain reports whether the switch v says yes or no in so many words: another one may
// be a slip, and what it opens is open for all.
func (d *emperorDecoder) plain(v value) bool {
	w := strings.ToLower(firstWord(v.Value))
	if v.Bare || slices.Contains([]string{"", "true", "yes", "on", "1", "false", "no", "off", "0"}, w) {
		return true
	}
	d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither true nor false", clip(w)), v.opt.Name+" = true")
	return false
}
