package inifile

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/route"
)

// defaultDepth is uWSGI's ssl-verify-depth.
const defaultDepth = 1

// tls handles listeners that speak TLS, and their certificates.
func (d *decoder) tls(v value) bool {
	t := &d.secure
	switch v.opt.Name {
	case "https", "https-socket":
		d.listenTLS(v, vassal.HTTPS)
	case "https2":
		d.https2(v)
	case "suwsgi-socket":
		d.listenTLS(v, vassal.SUWSGI)
	case "http-to-https":
		d.redirect(v)
	case "sni", "sni-regexp":
		d.serverName(v)
	case "sni-dir":
		t.Dir, t.DirAt = v.Value, v.Origin
	case "sni-dir-ciphers":
		t.DirCiphers = d.ciphers(v, v.Value)
	case "ssl-verify-depth":
		t.Depth = d.within(v, 0, 16, "ssl-verify-depth = 1")
		d.depthNamed = true
	case "https-export-cert":
		t.ExportCert = v.on
	case "ssl-verbose":
		t.Verbose = v.on
	default:
		return false
	}
	return true
}

// listenTLS reads ADDRESS,certificate,key[,ciphers[,client-ca]].
func (d *decoder) listenTLS(v value, p vassal.Protocol) {
	addr, rest, _ := strings.Cut(v.Value, ",")
	pair, ok := d.pair(v, rest, v.opt.Name+" = :443,/etc/ssl/site.pem,/etc/ssl/private/site.key")
	if !ok {
		return
	}
	d.listenPair(v, p, addr, pair)
}

func (d *decoder) listenPair(v value, p vassal.Protocol, addr string, pair vassal.KeyPair) {
	n := len(d.cfg.Listen)
	v.Value = strings.TrimSpace(addr)
	d.listen(v, p)
	if len(d.cfg.Listen) > n {
		d.cfg.Listen[n].TLS = &pair
	}
}

// redirect reads ADDRESS[,port of the https listener].
func (d *decoder) redirect(v value) {
	addr, port, named := strings.Cut(v.Value, ",")
	n := len(d.cfg.Listen)
	v.Value = strings.TrimSpace(addr)
	d.listen(v, vassal.Redirect)
	if !named || len(d.cfg.Listen) == n {
		return
	}
	p, err := strconv.ParseUint(strings.TrimSpace(port), 10, 16)
	if err != nil || p == 0 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a port", clip(port)), "http-to-https = :80, or http-to-https = :80,8443")
		return
	}
	d.cfg.Listen[n].HTTPSPort = uint16(p)
}

// pair reads certificate,key[,ciphers[,client-ca]].
func (d *decoder) pair(v value, text, hint string) (vassal.KeyPair, bool) {
	f := strings.SplitN(text, ",", 4)
	for i := range f {
		f[i] = strings.TrimSpace(f[i])
	}
	pair := vassal.KeyPair{Cert: f[0], At: v.Origin, OptionKey: v.Key}
	if len(f) > 1 {
		pair.Key = f[1]
	}
	if pair.Cert == "" || pair.Key == "" {
		d.err(vassal.CodeBadValue, v.Setting, "names no certificate and no key", hint)
		return pair, false
	}
	if len(f) > 2 {
		pair.Ciphers = d.ciphers(v, f[2])
	}
	if len(f) > 3 {
		d.clientCA(&pair, f[3])
	}
	return pair, true
}

// clientCA takes the file of those who vouch for clients; with "!" a client
// must have a certificate.
func (d *decoder) clientCA(p *vassal.KeyPair, text string) {
	p.ClientCA, p.ClientMust = strings.CutPrefix(text, "!")
}

// https2 reads addr=…,cert=…,key=…[,ciphers=…][,clientca=…].
func (d *decoder) https2(v value) {
	const hint = "https2 = addr=:443,cert=/etc/ssl/site.pem,key=/etc/ssl/private/site.key"
	var addr string
	pair := vassal.KeyPair{At: v.Origin, OptionKey: v.Key}
	for part := range strings.SplitSeq(v.Value, ",") {
		key, val, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not written as key=value", clip(part)), hint)
			return
		}
		switch key {
		case "addr":
			addr = val
		case "cert", "crt":
			pair.Cert = val
		case "key":
			pair.Key = val
		case "ciphers":
			pair.Ciphers = d.ciphers(v, val)
		case "clientca", "client_ca":
			d.clientCA(&pair, val)
		case "spdy":
			d.note(vassal.CodeDoneOtherwise, v.Setting, "SPDY became HTTP/2, which every https listener speaks")
		default:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a key of https2", clip(key)), hint)
			return
		}
	}
	if addr == "" || pair.Cert == "" || pair.Key == "" {
		d.err(vassal.CodeBadValue, v.Setting, "addr, cert and key are needed", hint)
		return
	}
	d.listenPair(v, vassal.HTTPS, addr, pair)
}

// serverName reads NAME certificate,key[,ciphers[,client-ca]].
func (d *decoder) serverName(v value) {
	hint := v.opt.Name + " = example.org /etc/ssl/site.pem,/etc/ssl/private/site.key"
	name, rest, ok := strings.Cut(strings.TrimSpace(v.Value), " ")
	if !ok {
		d.err(vassal.CodeBadValue, v.Setting, "is not written as NAME certificate,key", hint)
		return
	}
	n := vassal.ServerName{Name: strings.ToLower(name)}
	if v.opt.Name == "sni-regexp" {
		var err error
		if n.Name, err = route.Translate(name); err == nil {
			_, err = regexp.Compile(n.Name)
		}
		if err != nil {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q: %v", clip(name), err), "")
			return
		}
		n.Regexp = true
	} else if !validHost(name) && !validHost(strings.TrimSuffix(name, ".")) || strings.Contains(name, "..") {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a server's name", clip(name)), "sni-regexp = ^.*\\.example\\.org$ certificate,key is for many names")
		return
	}
	if n.KeyPair, ok = d.pair(v, rest, hint); !ok {
		return
	}
	d.secure.Names = append(d.secure.Names, n)
}

// finishTLS joins what several lines say about TLS.
func (d *decoder) finishTLS() {
	t := &d.secure
	d.atMost("server names", len(t.Names), maxServerNames)
	slices.SortStableFunc(t.Names, func(a, b vassal.ServerName) int { // sni comes before sni-regexp
		return cmp.Compare(btoi(a.Regexp), btoi(b.Regexp))
	})
	if !slices.ContainsFunc(d.cfg.Listen, func(l vassal.Listener) bool { return l.TLS != nil }) {
		if len(t.Names) > 0 || t.Dir != "" {
			at := t.DirAt
			if len(t.Names) > 0 {
				at = t.Names[0].At
			}
			d.warn(vassal.CodeBadValue, Setting{Key: "sni", Origin: at}, "no listener speaks TLS, so nobody asks for the certificate", "https = :443,certificate,key")
		}
		return
	}
	if !d.depthNamed {
		t.Depth = defaultDepth
	}
	d.cfg.App.TLS = t
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// maxServerNames bounds the lines of sni; sni-dir holds as many as one likes.
const maxServerNames = 256

// suites are the cipher suites of TLS 1.2 that are offered, by OpenSSL's names.
// Those of TLS 1.3 are not chosen by anybody.
var suites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": 0xc02b,
	"ECDHE-ECDSA-AES256-GCM-SHA384": 0xc02c,
	"ECDHE-RSA-AES128-GCM-SHA256":   0xc02f,
	"ECDHE-RSA-AES256-GCM-SHA384":   0xc030,
	"ECDHE-RSA-CHACHA20-POLY1305":   0xcca8,
	"ECDHE-ECDSA-CHACHA20-POLY1305": 0xcca9,
	"ECDHE-ECDSA-AES128-SHA":        0xc009,
	"ECDHE-ECDSA-AES256-SHA":        0xc00a,
	"ECDHE-RSA-AES128-SHA":          0xc013,
	"ECDHE-RSA-AES256-SHA":          0xc014,
}

// ciphers reads an OpenSSL list. The suites that it names are offered and no
// others; classes such as HIGH or !aNULL say nothing that is not so anyway. A
// list that names suites, but none that is there, is an error: it asks for
// something.
func (d *decoder) ciphers(v value, text string) []uint16 {
	var out []uint16
	var missing []string
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ':' || r == ' ' || r == ',' }) {
		if word[0] == '!' || word[0] == '-' || word[0] == '+' || word[0] == '@' {
			continue
		}
		if id, ok := suites[word]; ok {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		} else if strings.Contains(word, "-") { // a suite; a class has no dash
			missing = append(missing, word)
		}
	}
	switch {
	case len(missing) > 0 && len(out) == 0:
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("none of the ciphers is offered here: %s", clip(strings.Join(missing, " "))), "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256, or no list")
	case len(missing) > 0:
		d.note(vassal.CodeDoneOtherwise, v.Setting, fmt.Sprintf("ciphers that are not offered here: %s", clip(strings.Join(missing, " "))))
	}
	return out
}
