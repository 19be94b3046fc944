package route

import (
	"fmt"
	"strings"

	"liege/serve/cache"
	"liege/serve/metrics"
	"liege/vassal"
	"liege/vassal/route"
)

// rl is a rule being compiled.
type rl struct {
	*vassal.Rule
	h        *Handler
	captures bool
	index    int
	chain    []vassal.Rule
}

// template compiles a part of the argument.
func (r *rl) template(text string) (route.Template, error) {
	return route.ParseTemplate(text, r.captures)
}

type act = func(x *run) verdict

// compilers are the actions of package vassal/route, by name; the same one
// does for several.
var compilers = map[string]func(r *rl) (act, error){
	"continue": always(leave), "last": always(leave),
	"donotoffload": always(next), "flush": always(next), "fixcl": always(next), "forcecl": always(next), "chunked": always(next), "offload": always(next),
	"setmodifier1": setmodifier1, "setmodifier2": always(next),
	"signal": signal, "alarm": alarm, "harakiri": harakiri,
	"break": breakAction, "return": returnAction, "break-with-status": returnAction, "goto": gotoAction,
	"log": logAction, "logvar": logvar, "donotlog": donotlog, "addvar": addvar,
	"addheader": addheader, "delheader": delheader, "remheader": delheader, "clearheaders": clearheaders, "resetheaders": clearheaders,
	"send": send(""), "send-crnl": send("\r\n"),
	"setapp": setter("UWSGI_APPID"), "setscriptname": setter("SCRIPT_NAME"), "setmethod": setter("REQUEST_METHOD"), "seturi": seturi,
	"setremoteaddr": setter("REMOTE_ADDR"), "setpathinfo": setter("PATH_INFO"), "setdocroot": setter("DOCUMENT_ROOT"), "setscheme": setter("UWSGI_SCHEME"),
	"setuser": setuser, "fixpathinfo": fixpathinfo,
	"+": math(func(a, b int64) (int64, bool) { return a + b, true }),
	"-": math(func(a, b int64) (int64, bool) { return a - b, true }),
	"*": math(func(a, b int64) (int64, bool) { return a * b, true }),
	"/": math(func(a, b int64) (int64, bool) {
		if b == 0 {
			return 0, false
		}
		return a / b, true
	}),
	"redirect": redirect(302, "Moved"), "redirect-302": redirect(302, "Moved"),
	"redirect-permanent": redirect(301, "Moved Permanently"), "redirect-301": redirect(301, "Moved Permanently"),
	"rewrite": rewrite(next), "rewrite-last": rewrite(leave),
	"static": staticAction(false), "static-next": staticAction(true),
	"file": fileAction(false), "file-next": fileAction(true), "sendfile": fileAction(false), "sendfile-next": fileAction(true),
	"fastfile": fileAction(false), "fastfile-next": fileAction(true),
	"basicauth": basicauth(false), "basicauth-next": basicauth(true), "expires": expires, "hash": hashAction,
	"cache": cacheAction(false), "cache-continue": cacheAction(true), "cachestore": cachestore, "cache-store": cachestore,
	"cacheset": cacheset, "cachevar": cachevar, "cacheinc": cachemath(1, (*cache.Cache).Inc), "cachedec": cachemath(1, (*cache.Cache).Dec),
	"cachemul": cachemath(2, (*cache.Cache).Mul), "cachediv": cachemath(2, (*cache.Cache).Div),
	"metricinc": metric((*metrics.Set).Add), "metricdec": metric(func(s *metrics.Set, name string, n int64) bool { return s.Add(name, -n) }),
	"metricmul": metric((*metrics.Set).Mul), "metricdiv": metric((*metrics.Set).Div), "metricset": metric((*metrics.Set).Store),
	"gzip": gzipAction,
	"rpc":  rpc, "call": rpc, "rpcnext": rpcnext, "rpcblob": rpcnext, "rpcraw": rpcraw, "rpcret": rpcret, "rpcvar": rpcvar,
	"http": httpAction(false), "proxyhttp": httpAction(false), "httpdumb": httpAction(true),
	"httpconnect": connectAction, "proxyhttpconnect": connectAction,
	"uwsgi": uwsgiAction, "proxyuwsgi": uwsgiAction, "fcgi": fcgiAction, "scgi": scgiAction, "fcgiauth": fcgiauth,
}

func (h *Handler) action(r *vassal.Rule, index int, rules []vassal.Rule) (act, error) {
	c := compilers[r.Action]
	if c == nil {
		return nil, fmt.Errorf("there is no action %q", r.Action)
	}
	return c(&rl{r, h, route.Captures(r), index, rules})
}

// always is an action without an effect of its own: what it asks for holds
// anyway.
func always(v verdict) func(*rl) (act, error) {
	return func(*rl) (act, error) { return func(*run) verdict { return v }, nil }
}

// finish makes an action that ends the request.
func finish(end ending) act {
	return func(x *run) verdict {
		x.ending = end
		return stop
	}
}

func gotoAction(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	if err != nil {
		return nil, err
	}
	chain := r.chain
	if label, ok := t.Constant(); ok {
		to, _ := route.Target(chain, label)
		return func(x *run) verdict { x.jump = to; return next }, nil
	}
	at, index := r.At, r.index
	return func(x *run) verdict {
		to, ok := route.Target(chain, t.Expand(x))
		if !ok || to <= index {
			x.fail(at, "goto leads back, or to a label that is not there")
			return stop
		}
		x.jump = to
		return next
	}, nil
}

func logAction(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	log, at := r.h.cfg.Log, r.At
	return func(x *run) verdict {
		log.Info("routing rule", "file", at.File, "line", at.Line, "says", clip(t.Expand(x)))
		return next
	}, err
}

// maxLogged bounds what a rule logs, in bytes.
const maxLogged = 2 << 10

func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}

func logvar(r *rl) (act, error) {
	name, text, _ := strings.Cut(r.ActionArg, "=")
	t, err := r.template(text)
	return func(x *run) verdict {
		if len(x.r.Info.Extra) < maxVars {
			x.r.Info.Extra = append(x.r.Info.Extra, variable(name, t.Expand(x)))
		}
		return next
	}, err
}

func donotlog(*rl) (act, error) {
	return func(x *run) verdict { x.r.Info.Quiet = true; return next }, nil
}

func addvar(r *rl) (act, error) {
	name, text, _ := strings.Cut(r.ActionArg, "=")
	t, err := r.template(text)
	at := r.At
	return func(x *run) verdict { return x.setNew(at, name, t.Expand(x)) }, err
}

func setter(name string) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		t, err := r.template(r.ActionArg)
		at := r.At
		return func(x *run) verdict { return x.setNew(at, name, t.Expand(x)) }, err
	}
}

func seturi(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	at, url := r.At, r.url("")
	return func(x *run) verdict { return x.setNew(at, "REQUEST_URI", t.Expand(url(x))) }, err
}

// setmodifier1 chooses who answers.
func setmodifier1(r *rl) (act, error) {
	n := uint8(number(r.ActionArg))
	return func(x *run) verdict { x.r.Modifier1 = n; return next }, nil
}

func setuser(r *rl) (act, error) {
	t, err := r.template(r.ActionArg)
	at := r.At
	return func(x *run) verdict {
		user, _, _ := strings.Cut(t.Expand(x), ":")
		return x.setNew(at, "REMOTE_USER", user)
	}, err
}

// fixpathinfo takes SCRIPT_NAME off the front of PATH_INFO.
func fixpathinfo(*rl) (act, error) {
	return func(x *run) verdict {
		x.r.Unprefix()
		x.have = 0
		return next
	}, nil
}

// math is an action on a number in a variable, NAME[,n]. A division is one;
// uWSGI's multiplies.
func math(f func(a, b int64) (int64, bool)) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		name, text, given := strings.Cut(r.ActionArg, ",")
		if !given {
			text = "1"
		}
		t, err := r.template(text)
		at := r.At
		return func(x *run) verdict {
			v, ok := f(number(x.r.Get(name)), number(t.Expand(x)))
			if !ok {
				x.fail(at, "division by zero")
				return stop
			}
			return x.setNew(at, name, format(v))
		}, err
	}
}
