package route

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

// An action is what the table says about one.
type action struct {
	check func(arg string, captures bool) error // of the argument; nil: any template
	rpc   bool                                  // calls a worker
	waits bool                                  // for another server, to go on
	why   string                                // not empty: it is not there, and why
}

// Reasons that several actions share.
const (
	noTransform = "bodies are not rewritten on their way"
	noPlugin    = "this plugin of uWSGI is not there"
	noCGI       = "programs are not run by a rule"
	noDynamic   = "apps are never chosen by what a request says"
)

// actions is uWSGI's list.
var actions = map[string]action{
	"continue": {check: free}, "last": {check: free},
	"break": {check: breaks}, "return": {check: status}, "break-with-status": {check: status},
	"goto": {}, "log": {}, "logvar": {check: assignment}, "donotlog": {check: free}, "donotoffload": {check: free},
	"addvar": {check: assignment}, "addheader": {check: header}, "delheader": {check: fieldName}, "remheader": {check: fieldName},
	"clearheaders": {check: status}, "resetheaders": {check: status}, "send": {}, "send-crnl": {},
	"setapp": {}, "setuser": {}, "setscriptname": {}, "setmethod": {}, "seturi": {}, "setremoteaddr": {}, "setpathinfo": {},
	"setdocroot": {}, "setscheme": {}, "fixpathinfo": {check: free}, "setmodifier1": {check: modifier1}, "setmodifier2": {check: zero},
	"+": {check: math}, "-": {check: math}, "*": {check: math}, "/": {check: math},
	"flush": {check: free}, "fixcl": {check: free}, "forcecl": {check: free}, "chunked": {check: free}, "offload": {check: free}, "gzip": {check: free},
	"redirect": {}, "redirect-302": {}, "redirect-permanent": {}, "redirect-301": {}, "rewrite": {}, "rewrite-last": {},
	"static": {}, "static-next": {}, "file": {check: file}, "file-next": {check: file}, "sendfile": {check: file}, "sendfile-next": {check: file},
	"fastfile": {check: file}, "fastfile-next": {check: file},
	"basicauth": {check: basicauth}, "basicauth-next": {check: basicauth},
	"expires": {check: expires}, "hash": {check: hash},
	"http": {check: upstream}, "httpdumb": {check: upstream}, "proxyhttp": {check: upstream}, "httpconnect": {check: upstream},
	"proxyhttpconnect": {check: upstream}, "uwsgi": {check: modifiers}, "proxyuwsgi": {check: modifiers}, "fcgi": {check: upstream}, "scgi": {check: upstream},
	"fcgiauth": {check: upstream, waits: true},
	"rpc":      {check: call, rpc: true}, "call": {check: call, rpc: true}, "rpcnext": {check: call, rpc: true}, "rpcblob": {check: call, rpc: true},
	"rpcraw": {check: call, rpc: true}, "rpcret": {check: call, rpc: true}, "rpcvar": {check: callVar, rpc: true},

	"cache": {check: keyed(CacheKeys, "key")}, "cache-continue": {check: keyed(CacheKeys, "key")},
	"cachestore": {check: keyed(StoreKeys, "key")}, "cache-store": {check: keyed(StoreKeys, "key")},
	"cacheset": {check: keyed(CacheSet, "key", "value")}, "cachevar": {check: keyed(CacheVar, "key", "var")},
	"cacheinc": {check: keyed(CacheMath, "key")}, "cachedec": {check: keyed(CacheMath, "key")},
	"cachemul": {check: keyed(CacheMath, "key")}, "cachediv": {check: keyed(CacheMath, "key")},
	"signal": {check: signal}, "alarm": {check: alarm}, "harakiri": {check: harakiri},
	"metricinc": {check: math}, "metricdec": {check: math}, "metricmul": {check: math}, "metricdiv": {check: math}, "metricset": {check: math},

	"goon":           {why: noPlugin},
	"disableheaders": {why: "every answer has a head"},
	"chdir":          {why: "the working directory is one for all requests"}, "setprocname": {why: "the process is one for all requests"},
	"sethome": {why: noDynamic}, "setfile": {why: noDynamic},
	"access": {why: noPlugin}, "redis": {why: noPlugin}, "redis-continue": {why: noPlugin}, "redisstore": {why: noPlugin}, "memcached": {why: noPlugin},
	"memcached-continue": {why: noPlugin}, "memcachedstore": {why: noPlugin}, "radius": {why: noPlugin}, "ldapauth": {why: noPlugin},
	"ldapauth-next": {why: noPlugin}, "spnego": {why: noPlugin}, "xmldir": {why: noPlugin}, "xslt": {why: noPlugin}, "toxslt": {why: noTransform},
	"ssi": {why: noPlugin}, "gridfs": {why: noPlugin}, "symcall": {why: noPlugin}, "symcallnext": {why: noPlugin},
	"cgi": {why: noCGI}, "cgihelper": {why: noCGI},
	"toupper": {why: noTransform}, "template": {why: noTransform}, "tofile": {why: noTransform},
}

// Actions are the names of the actions that are there.
func Actions() []string {
	var out []string
	for name, a := range actions {
		if a.why == "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Calls reports whether an action calls a function of the application.
func Calls(name string) bool { return actions[name].rpc }

// checkAction looks at the action of r, which is in chain c.
func checkAction(c Chain, r *vassal.Rule) []Trouble {
	a, ok := actions[r.Action]
	switch {
	case !ok:
		return wrong("redirect:, static:, break:, goto:, addheader:, rewrite:, last: …", "there is no action %.40q", r.Action)
	case a.why != "":
		return notThere(r.Action, a.why)
	case a.rpc && (c == Error || c == Response):
		return notThere(r.Action, "a worker that is answering cannot be asked: only rules before the app and final rules can call one")
	case r.Action == "harakiri" && c != Request:
		return notThere(r.Action, "the application has answered: only rules before it can say how long it may take")
	case a.waits && (c == Error || c == Response):
		return notThere(r.Action, "it would keep a worker waiting: only rules before the app can ask")
	case c == Final && r.Action == "gzip":
		return []Trouble{{vassal.Warning, vassal.CodeBadRoute, "gzip: the answer is gone when final rules are applied", "route-run = gzip:"}}
	case c == Final && strings.HasPrefix(r.Action, "cache") && strings.HasSuffix(r.Action, "store"):
		return []Trouble{{vassal.Warning, vassal.CodeBadRoute, r.Action + ": the answer is gone when final rules are applied, so nothing is stored", "response-route-…"}}
	case c == Final && ends(r.Action):
		return []Trouble{{vassal.Warning, vassal.CodeBadRoute, r.Action + ": the answer is complete when final rules are applied, so this only ends the chain", ""}}
	case a.check != nil:
		err := a.check(r.ActionArg, Captures(r))
		if own, ok := errors.AsType[OwnField](err); ok {
			return []Trouble{{vassal.Warning, vassal.CodeBadRoute, fmt.Sprintf("%s: %v; the rule does nothing", r.Action, own), "remove the line"}}
		}
		if err != nil {
			return wrong("", "%s: %v", r.Action, err)
		}
		return nil
	}
	_, err := ParseTemplate(r.ActionArg, Captures(r))
	return asTrouble(err)
}

// ends reports whether an action answers.
func ends(action string) bool {
	if action == "cache" || action == "cache-continue" {
		return true
	}
	for _, p := range [...]string{"redirect", "static", "file", "sendfile", "fastfile", "basicauth", "http", "proxy", "uwsgi", "fcgi", "scgi", "return", "break"} {
		if strings.HasPrefix(action, p) {
			return true
		}
	}
	return false
}

func free(string, bool) error { return nil }

func templates(captures bool, parts ...string) error {
	for _, p := range parts {
		if _, err := ParseTemplate(p, captures); err != nil {
			return err
		}
	}
	return nil
}

// ParseStatus reads "404" or "404 Not Here"; the reason is empty if it is not
// given.
func ParseStatus(s string) (code int, reason string, err error) {
	num, reason, _ := strings.Cut(strings.TrimSpace(s), " ")
	code, err = strconv.Atoi(num)
	if err != nil || code < 200 || code > 599 {
		return 0, "", fmt.Errorf("%.40q is not a status from 200 to 599", s)
	}
	for i := range len(reason) {
		if reason[i] < ' ' || reason[i] == 0x7f {
			return 0, "", fmt.Errorf("invalid byte in the reason %.40q", reason)
		}
	}
	return code, reason, nil
}

func status(arg string, _ bool) error {
	_, _, err := ParseStatus(arg)
	return err
}

// breaks: nothing, or what is shorter than a status, ends without one, as in
// uWSGI.
func breaks(arg string, _ bool) error {
	if len(arg) < 3 {
		return nil
	}
	return status(arg, false)
}

func assignment(arg string, captures bool) error {
	name, value, ok := strings.Cut(arg, "=")
	if !ok || name == "" {
		return fmt.Errorf("%.60q is not written as NAME=value", arg)
	}
	return templates(captures, value)
}

func header(arg string, captures bool) error {
	name, value, ok := strings.Cut(arg, ":")
	if !ok {
		return fmt.Errorf("%.60q is not written as Name: value", arg)
	}
	if err := templates(captures, arg); err != nil || strings.Contains(name, "$") {
		return err
	}
	return Field(name, value)
}

func fieldName(arg string, captures bool) error {
	if !strings.Contains(arg, "$") {
		return FieldName(arg)
	}
	return templates(captures, arg)
}

// Field checks what is added to an answer. Of the server's own fields only one
// can be: Connection: close, which has the connection closed after the answer.
func Field(name, value string) error {
	if strings.EqualFold(name, "Connection") && strings.EqualFold(strings.TrimSpace(value), "close") {
		return nil
	}
	return FieldName(name)
}

// OwnField is the name of a field that only the server sets. uWSGI sends what
// it is told, so that files have such lines; an answer is right without them.
type OwnField string

func (name OwnField) Error() string {
	return string(name) + " is the server's own: it says where the answer ends"
}

// FieldName checks the name of a header field (RFC 9110 5.1). The fields that
// say where a message ends are the server's own: OwnField.
func FieldName(name string) error {
	for i := range len(name) {
		c := name[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return fmt.Errorf("%.40q is not the name of a header field", name)
		}
	}
	if name == "" {
		return fmt.Errorf("no name of a header field")
	}
	for _, own := range [...]string{"Content-Length", "Transfer-Encoding", "Connection"} {
		if strings.EqualFold(name, own) {
			return OwnField(own)
		}
	}
	return nil
}

// modifier1 is the handler: 0 is the app, 5 one in Perl, 7 one in Ruby, 9 is
// CGI, 14 is PHP.
func modifier1(arg string, _ bool) error {
	switch arg {
	case "0", "5", "7", "9", "14":
		return nil
	}
	return fmt.Errorf("%.20q: a rule can choose 0, the app (5 in Perl, 7 in Ruby), 9, CGI, or 14, PHP", arg)
}

// Modifier is the handler that r chooses in this vassal, "" when it chooses
// none.
func Modifier(r *vassal.Rule) string {
	switch r.Action {
	case "setmodifier1":
		return r.ActionArg
	case "uwsgi":
		if f := strings.SplitN(r.ActionArg, ",", 3); f[0] == "" && len(f) > 1 {
			return cmp.Or(f[1], "0")
		}
	}
	return ""
}

func zero(arg string, _ bool) error {
	if n, err := strconv.Atoi(arg); err != nil || n != 0 {
		return fmt.Errorf("%.20q: other handlers than the app's are not chosen by a rule yet", arg)
	}
	return nil
}

func math(arg string, captures bool) error {
	name, n, _ := strings.Cut(arg, ",")
	if name == "" {
		return fmt.Errorf("no variable")
	}
	return templates(captures, n)
}

// Keyvals reads "a=b,c=d": every key must be one of known, separated by
// blanks.
func Keyvals(arg, known string) (map[string]string, error) {
	out := map[string]string{}
	for item := range strings.SplitSeq(arg, ",") {
		k, v, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("%.60q is not written as name=value", item)
		}
		if !slices.Contains(strings.Fields(known), k) {
			return nil, fmt.Errorf("%.40q: want one of %s", k, known)
		}
		out[k] = v
	}
	return out, nil
}

// Keys of actions whose argument is name=value,….
const (
	FileKeys    = "filename status content_type mime no_cl no_headers"
	ExpiresKeys = "filename unix value"
	HashKeys    = "algo key var items"
)

func file(arg string, captures bool) error {
	kv, err := Keyvals(arg, FileKeys)
	if err != nil {
		return err
	}
	if kv["filename"] == "" {
		return fmt.Errorf("no filename=")
	}
	if kv["no_headers"] != "" {
		return fmt.Errorf("no_headers: every answer has a head")
	}
	if s := kv["status"]; s != "" && !strings.Contains(s, "$") {
		if _, _, err := ParseStatus(s); err != nil {
			return err
		}
	}
	return templates(captures, kv["filename"], kv["status"], kv["content_type"])
}

func expires(arg string, captures bool) error {
	kv, err := Keyvals(arg, ExpiresKeys)
	if err == nil && kv["filename"] == "" && kv["unix"] == "" {
		err = fmt.Errorf("needs filename= or unix=")
	}
	if err != nil {
		return err
	}
	return templates(captures, kv["filename"], kv["unix"], kv["value"])
}

func hash(arg string, captures bool) error {
	kv, err := Keyvals(arg, HashKeys)
	if err == nil && (kv["var"] == "" || kv["items"] == "" || kv["key"] == "") {
		err = fmt.Errorf("needs key=, var= and items=")
	}
	if err == nil && !slices.Contains([]string{"djb33x", "murmur2", "random", "rand", "rr"}, cmp.Or(kv["algo"], "djb33x")) {
		err = fmt.Errorf("algo=%.20s: want djb33x, murmur2, random or rr", kv["algo"])
	}
	if err != nil {
		return err
	}
	return templates(captures, kv["key"], kv["items"])
}

func basicauth(arg string, _ bool) error {
	if realm, who, ok := strings.Cut(arg, ","); !ok || realm == "" || strings.ContainsAny(realm, "\"\\") || who == "" {
		return fmt.Errorf("%.60q is not written as realm,user:password or realm,htpasswd-file", realm)
	}
	return nil
}

// Upstream is where an action sends requests on: an address, for http actions
// the Host field and the request target to send.
type Upstream struct{ Address, Host, Target string }

// ParseUpstream splits the argument of an action of proxies.
func ParseUpstream(arg string) Upstream {
	var u Upstream
	u.Address, arg, _ = strings.Cut(arg, ",")
	u.Host, u.Target, _ = strings.Cut(arg, ",")
	return u
}

func upstream(arg string, captures bool) error {
	u := ParseUpstream(arg)
	if u.Address == "" {
		return fmt.Errorf("no address")
	}
	if !strings.Contains(u.Address, "$") {
		if err := Address(u.Address); err != nil {
			return err
		}
	}
	return templates(captures, u.Address, u.Host, u.Target)
}

// Address checks an upstream's address: HOST:PORT, an absolute path or @name.
func Address(a string) error {
	a = strings.TrimPrefix(a, "unix:")
	if path.IsAbs(a) || len(a) > 1 && a[0] == '@' {
		return nil
	}
	i := strings.LastIndexByte(a, ':')
	if i < 0 {
		return fmt.Errorf("%.60q is no address: HOST:PORT or the path of a socket", a)
	}
	if n, err := strconv.ParseUint(a[i+1:], 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%.60q has no port", a)
	}
	return nil
}

// modifiers is the argument of uwsgi: address,modifier1,modifier2,appid.
func modifiers(arg string, captures bool) error {
	f := strings.SplitN(arg, ",", 4)
	for _, n := range f[1:min(len(f), 3)] {
		if _, err := strconv.ParseUint(n, 10, 8); n != "" && err != nil {
			return fmt.Errorf("%.20q is not a modifier from 0 to 255", n)
		}
	}
	if f[0] != "" {
		return upstream(f[0], captures)
	}
	return here(f, captures)
}

// here is uwsgi without an address: who answers, in this vassal.
func here(f []string, captures bool) error {
	if len(f) < 2 {
		return fmt.Errorf("no address, and no modifier")
	}
	err := modifier1(cmp.Or(f[1], "0"), captures)
	if err == nil && len(f) > 2 && f[2] != "" {
		err = zero(f[2], captures)
	}
	if err == nil && len(f) > 3 {
		err = templates(captures, f[3])
	}
	return err
}

// Words splits the argument of a call: blanks separate, quotes keep together.
func Words(arg string) ([]string, error) {
	var out []string
	for {
		arg = strings.TrimLeft(arg, " \t")
		if arg == "" {
			return out, nil
		}
		if q := arg[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(arg[1:], q)
			if end < 0 {
				return nil, fmt.Errorf("a quote is not closed")
			}
			out, arg = append(out, arg[1:1+end]), arg[end+2:]
			continue
		}
		end := strings.IndexAny(arg, " \t")
		if end < 0 {
			end = len(arg)
		}
		out, arg = append(out, arg[:end]), arg[end:]
	}
}

// signal is a signal's number.
func signal(arg string, _ bool) error {
	if n, err := strconv.ParseUint(arg, 10, 8); err != nil {
		return fmt.Errorf("%.20q is not a signal from 0 to 255", arg)
	} else if n == 0 && arg != "0" {
		return fmt.Errorf("%.20q is not a signal", arg)
	}
	return nil
}

func alarm(arg string, captures bool) error {
	name, text, ok := strings.Cut(arg, " ")
	if !ok || name == "" {
		return fmt.Errorf("want NAME TEXT")
	}
	return templates(captures, text)
}

// maxHarakiri of a request, in seconds.
const maxHarakiri = 7 * 24 * 3600

func harakiri(arg string, _ bool) error {
	if _, err := strconv.ParseUint(arg, 10, 32); err != nil {
		return fmt.Errorf("%.20q is not a number of seconds", arg)
	}
	if n, _ := strconv.Atoi(arg); n > maxHarakiri {
		return fmt.Errorf("%d seconds are more than a week", n)
	}
	return nil
}

// Harakiri is how long a request may take that the action harakiri of r is
// applied to; 0: for ever.
func Harakiri(r *vassal.Rule) (limit time.Duration, ok bool) {
	if r.Action != "harakiri" {
		return 0, false
	}
	n, err := strconv.Atoi(r.ActionArg)
	return time.Duration(n) * time.Second, err == nil
}

// maxArguments of a function, as in uWSGI.
const maxArguments = 254

func call(arg string, captures bool) error {
	w, err := Words(arg)
	switch {
	case err != nil:
		return err
	case len(w) == 0:
		return fmt.Errorf("no function")
	case len(w)-1 > maxArguments:
		return fmt.Errorf("more than %d arguments", maxArguments)
	}
	name, at := Function(w[0])
	if at != "" {
		if strings.Contains(at, "$") {
			return fmt.Errorf("%.60q: the address of another instance holds no variables", w[0])
		}
		if err := Address(at); err != nil {
			return err
		}
	}
	w[0] = name
	return templates(captures, w...)
}

// Function splits FUNCTION@ADDRESS; without an address the function is the
// application's own.
func Function(word string) (name, address string) {
	name, address, _ = strings.Cut(word, "@")
	return name, address
}

// CallAddress is the address of the instance whose function a rule calls; "":
// its own.
func CallAddress(r *vassal.Rule) string {
	arg := r.ActionArg
	if r.Action == "rpcvar" {
		_, arg, _ = strings.Cut(arg, " ")
	}
	w, err := Words(arg)
	if err != nil || len(w) == 0 || !actions[r.Action].rpc {
		return ""
	}
	_, at := Function(w[0])
	return at
}

func callVar(arg string, captures bool) error {
	name, rest, ok := strings.Cut(arg, " ")
	if !ok || name == "" {
		return fmt.Errorf("want VARIABLE FUNCTION ARGUMENTS")
	}
	return call(rest, captures)
}
