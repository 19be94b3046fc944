package inifile

import (
	"fmt"
	"path"
	"strings"

	"liege/vassal"
	"liege/vassal/route"
)

// routing handles the rules of internal routing and the options about header
// fields of answers.
func (d *decoder) routing(v value) bool {
	if v.opt.Type == Routing {
		d.rule(v)
		return true
	}
	switch v.opt.Name {
	case "add-header":
		name, text, ok := strings.Cut(v.Value, ":")
		if !ok {
			d.warn(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not written as Name: value, so the line has no effect", clip(v.Value)), "add-header = X-Frame-Options: DENY")
			return true
		}
		if d.field(v, route.Field(name, text)) {
			r := d.rules()
			r.Add = append(r.Add, vassal.HeaderLine{Name: name, Value: strings.TrimSpace(text)})
		}
	case "rem-header":
		if name := strings.TrimSpace(v.Value); d.field(v, route.FieldName(name)) {
			r := d.rules()
			r.Remove = append(r.Remove, name)
		}
	case "collect-header", "pull-header":
		f := strings.Fields(v.Value)
		if len(f) != 2 {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is not a header field and a variable", clip(v.Value)), v.Key+" = X-Sendfile X_SENDFILE")
			return true
		}
		r := d.rules()
		r.Collect = append(r.Collect, vassal.HeaderVar{Name: f[0], Var: f[1], Pull: v.opt.Name == "pull-header"})
	default:
		return false
	}
	return true
}

// field says what is wrong with a header field, if anything is. uWSGI sends
// whatever it is; here the line is left out, and the site serves.
func (d *decoder) field(v value, err error) bool {
	if err != nil {
		d.warn(vassal.CodeBadValue, v.Setting, err.Error()+"; the line has no effect", "remove the line")
	}
	return err == nil
}

func (d *decoder) rules() *vassal.Routing {
	if d.cfg.App.Routing == nil {
		d.cfg.App.Routing = &vassal.Routing{}
	}
	return d.cfg.App.Routing
}

// rule adds one line to its chain. The name of the option is used as it is
// documented, whatever alias the line has.
func (d *decoder) rule(v value) {
	r, troubles := route.Parse(v.opt.Name, v.Value)
	r.At = v.Origin
	if d.tenant(v.Setting) {
		d.theirs = append(d.theirs, r.At)
	}
	d.troubles(v.Setting, troubles)
	all := d.rules()
	switch chain, _, _ := route.Option(v.opt.Name); chain {
	case route.Request:
		all.Request = append(all.Request, r)
	case route.Error:
		all.Error = append(all.Error, r)
	case route.Response:
		all.Response = append(all.Response, r)
	case route.Final:
		all.Final = append(all.Final, r)
	}
	d.rulePaths(&r)
}

func (d *decoder) troubles(s Setting, ts []route.Trouble) {
	for _, t := range ts {
		d.add(t.Severity, t.Code, s, t.Message, t.Hint)
	}
}

// rulePaths remembers the host paths that a rule names before its first
// variable, for the automatic binds: the directory of a file to send or to look
// for, and a password file.
func (d *decoder) rulePaths(r *vassal.Rule) {
	literal := func(text string) string {
		t, err := route.ParseTemplate(text, true)
		if err != nil {
			return ""
		}
		return t.Literal()
	}
	dir := func(text string) {
		p := literal(text)
		if p = path.Clean(p[:strings.LastIndexByte(p, '/')+1]); nameable(p) {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: p, Target: p, Access: vassal.AsHost, Key: r.Key, At: r.At})
		}
	}
	switch r.Condition {
	case "exists", "isfile", "isdir", "islink", "isexec":
		dir(r.Arg)
	}
	switch action := strings.TrimSuffix(r.Action, "-next"); action {
	case "static":
		dir(r.ActionArg)
	case "file", "sendfile", "fastfile":
		if kv, err := route.Keyvals(r.ActionArg, route.FileKeys); err == nil {
			dir(kv["filename"])
		}
	case "basicauth":
		if _, who, _ := strings.Cut(r.ActionArg, ","); who != "" && !strings.Contains(who, ":") {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: who, Target: who, Access: vassal.ReadOnly, Key: r.Key, At: r.At})
		}
	}
}

// nameable reports whether a rule brings a directory in by itself: one of the
// system's, or a private one, has to be named by bind.
func nameable(p string) bool {
	if !path.IsAbs(p) || strings.Count(p, "/") < 2 {
		return false
	}
	for _, top := range [...]string{"/dev/", "/etc/", "/proc/", "/run/", "/sys/", "/tmp/", "/usr/", "/var/run/", "/var/tmp/"} {
		if strings.HasPrefix(p+"/", top) {
			return false
		}
	}
	return strings.Count(p, "/") > 2 || !strings.HasPrefix(p, "/var/")
}

// finishRoutes looks at each chain as a whole.
func (d *decoder) finishRoutes() {
	all := d.cfg.App.Routing
	if all == nil {
		return
	}
	d.atMost("routing rules", len(all.Request)+len(all.Error)+len(all.Response)+len(all.Final), route.MaxRules)
	for _, chain := range [][]vassal.Rule{all.Request, all.Error, all.Response, all.Final} {
		troubles := route.Check(chain)
		for i := range chain {
			d.troubles(Setting{Key: chain[i].Key, Origin: chain[i].At}, troubles[i])
			d.reachable(&chain[i])
			d.metricRule(&chain[i])
			for _, name := range route.CacheNames(&chain[i]) {
				if !d.hasCache(name) {
					d.noCache(Setting{Key: chain[i].Key, Origin: chain[i].At}, name)
				}
			}
			d.ruleModifier(&chain[i])
			if chain[i].Action == "signal" && d.cfg.App.Workers == nil {
				d.err(vassal.CodeBadRoute, Setting{Key: chain[i].Key, Origin: chain[i].At}, "signal: raises a signal of the app, and no line names an app", "wsgi-file = app.py")
			}
			if route.Calls(chain[i].Action) && route.CallAddress(&chain[i]) == "" && d.cfg.App.Workers == nil {
				d.err(vassal.CodeBadRoute, Setting{Key: chain[i].Key, Origin: chain[i].At}, chain[i].Action+": calls a function of the app, and no line names an app", "wsgi-file = app.py")
			}
		}
	}
}

// ruleModifier checks that there is who a rule says shall answer.
func (d *decoder) ruleModifier(r *vassal.Rule) {
	s := Setting{Key: r.Key, Origin: r.At}
	switch asked := route.Modifier(r); {
	case asked == "9" && d.cfg.App.CGI == nil:
		d.err(vassal.CodeBadRoute, s, r.Action+": asks for CGI, and no cgi line says what to run", "cgi = /cgi-bin=/usr/lib/cgi-bin")
	case asked == "5" && d.cfg.App.Workers.Modifier() != 5:
		d.err(vassal.CodeBadRoute, s, r.Action+": asks for a Perl app, and no line names one", "psgi = app.psgi, or setmodifier1:0 for the app")
	case asked == "7" && d.cfg.App.Workers.Modifier() != 7:
		d.err(vassal.CodeBadRoute, s, r.Action+": asks for a Ruby app, and no line names one", "rack = config.ru, or setmodifier1:0 for the app")
	}
}

// reachable warns about an upstream that the vassal's network does not reach.
func (d *decoder) reachable(r *vassal.Rule) {
	if at := route.CallAddress(r); at != "" {
		d.reachedFrom(Setting{Key: r.Key, Origin: r.At}, r.Action, at)
	}
	switch r.Action {
	case "http", "httpdumb", "proxyhttp", "httpconnect", "proxyhttpconnect", "uwsgi", "proxyuwsgi", "fcgi", "scgi", "fcgiauth":
	default:
		return
	}
	addr := route.ParseUpstream(r.ActionArg).Address
	d.reachedFrom(Setting{Key: r.Key, Origin: r.At}, r.Action, addr)
}

func (d *decoder) listensOn(addr string) bool {
	for _, l := range d.cfg.Listen {
		if l.Address == addr {
			return true
		}
	}
	return false
}
