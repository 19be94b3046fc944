package route

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/serve/metrics"
	"liege/serve/proxy"
	"liege/vassal"
	"liege/vassal/route"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// answered is a Response that keeps what it is given.
type answered struct {
	status int
	reason string
	fields []exchange.Field
	body   bytes.Buffer
}

func (a *answered) Head(status int, reason string, fields []exchange.Field) error {
	if a.status != 0 {
		return errors.New("a second head")
	}
	a.status, a.reason, a.fields = status, reason, slices.Clone(fields)
	return nil
}
func (a *answered) Write(p []byte) (int, error) {
	if a.status == 0 {
		return 0, errors.New("no head")
	}
	return a.body.Write(p)
}
func (a *answered) Flush() error  { return nil }
func (a *answered) Started() bool { return a.status != 0 }
func (a *answered) File(f exchange.File, off, n int64) error {
	_, err := io.Copy(a, io.NewSectionReader(f, off, n))
	return err
}

func (a *answered) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", a.status)
	if a.reason != "" {
		b.WriteString(" " + a.reason)
	}
	for _, f := range a.fields {
		if f.Name != "Content-Length" && f.Name != "Last-Modified" && f.Name != "Accept-Ranges" && f.Name != "ETag" {
			b.WriteString(" | " + f.Name + ": " + f.Value)
		}
	}
	if a.body.Len() > 0 {
		b.WriteString(" | " + a.body.String())
	}
	return b.String()
}

// parse makes a Routing of lines such as an ini file has.
func parse(t testing.TB, lines string) *vassal.Routing {
	t.Helper()
	out := &vassal.Routing{}
	n := 0
	for line := range strings.Lines(lines) {
		n++
		key, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok {
			continue
		}
		switch key {
		case "collect-header", "pull-header":
			name, v, _ := strings.Cut(value, " ")
			out.Collect = append(out.Collect, vassal.HeaderVar{Name: name, Var: v, Pull: key[0] == 'p'})
			continue
		case "add-header":
			name, v, _ := strings.Cut(value, ": ")
			out.Add = append(out.Add, vassal.HeaderLine{Name: name, Value: v})
			continue
		case "del-header":
			out.Remove = append(out.Remove, value)
			continue
		}
		r, ts := route.Parse(key, value)
		if len(ts) > 0 && ts[0].Severity == vassal.Error {
			t.Fatalf("%s: %+v", line, ts)
		}
		r.At.Line = n
		switch c, _, _ := route.Option(key); c {
		case route.Request:
			out.Request = append(out.Request, r)
		case route.Error:
			out.Error = append(out.Error, r)
		case route.Response:
			out.Response = append(out.Response, r)
		case route.Final:
			out.Final = append(out.Final, r)
		}
	}
	return out
}

type functions map[string]func(args []string) (string, error)

func (f functions) Call(_ context.Context, name string, args []string) (string, error) {
	if f[name] == nil {
		return "", errors.New("no such function")
	}
	return f[name](args)
}

var calls = functions{
	"join":  func(args []string) (string, error) { return strings.Join(args, "|"), nil },
	"raw":   func([]string) (string, error) { return "HTTP/1.0 402 Pay\r\nX-A: b\r\n\r\nnow", nil },
	"empty": func([]string) (string, error) { return "", nil },
	"fail":  func([]string) (string, error) { return "", errors.New("it failed") },
}

// site is a Handler with an application that tells what it sees.
type site struct {
	h       *Handler
	cache   *cache.Set
	metrics *metrics.Set
	log     bytes.Buffer
}

func newSite(t testing.TB, lines string, s vassal.Static, app exchange.HandlerFunc) *site {
	t.Helper()
	out := &site{}
	log := slog.New(slog.NewTextHandler(&out.log, nil))
	if app == nil {
		app = func(_ context.Context, r *exchange.Request, w exchange.Response) error {
			if err := w.Head(200, "OK", []exchange.Field{{Name: "X-App", Value: "yes"}}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(w, "app %s?%s", r.Get("PATH_INFO"), r.Get("QUERY_STRING"))
			return err
		}
	}
	client := proxy.New(proxy.Limits{Silence: time.Second}, log)
	t.Cleanup(client.Close)
	var err error
	out.cache, err = cache.New([]vassal.Cache{{Name: "mine", Items: 4, Blocks: 4, BlockSize: 100, KeySize: 20}, {Name: "other", Items: 4, Blocks: 4, BlockSize: 100, KeySize: 20}}, "/", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.cache.Close)
	out.metrics = metrics.New(&vassal.Metrics{Own: []vassal.Metric{{Name: "m", Initial: 10}}}, "/", func() []metrics.Value { return []metrics.Value{{Name: "core.busy", Value: 3}} })
	h, err := New(Config{App: &vassal.App{Static: s, Routing: parse(t, lines)}, Next: app, Call: calls, Stats: func() exchange.Stats { return exchange.Stats{Queued: 3} },
		Proxy: client, Cache: out.cache, Metrics: out.metrics, Log: log}, len(s.Check) > 0)
	if err != nil {
		t.Fatal(err)
	}
	out.h = h
	return out
}

// ask sends a request: "METHOD /path?query" and further variables.
func (s *site) ask(t testing.TB, line string, vars ...string) (*answered, *exchange.Request, error) {
	t.Helper()
	method, uri, _ := strings.Cut(line, " ")
	p, qs, _ := strings.Cut(uri, "?")
	r := &exchange.Request{Start: time.Now(), Body: strings.NewReader(""), Vars: []exchange.Var{
		{Name: "REQUEST_METHOD", Value: method}, {Name: "REQUEST_URI", Value: uri}, {Name: "PATH_INFO", Value: p},
		{Name: "QUERY_STRING", Value: qs}, {Name: "REMOTE_ADDR", Value: "192.0.2.7"}, {Name: "HTTP_HOST", Value: "example.org"}, {Name: "SCRIPT_NAME", Value: ""}}}
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		r.Set(name, value)
	}
	a := &answered{}
	err := s.h.Serve(t.Context(), r, a)
	r.Info.Status = a.status
	if r.Info.Then != nil {
		r.Info.Then()
	}
	return a, r, err
}

func (s *site) want(t testing.TB, want, line string, vars ...string) {
	t.Helper()
	a, _, err := s.ask(t, line, vars...)
	got := a.String()
	if err != nil {
		got = fmt.Sprintf("error %d", exchange.StatusOf(err))
	}
	if got != want {
		t.Errorf("%s %v:\n got %s\nwant %s\n%s", line, vars, got, want, s.log.String())
	}
}

func basic(s string) string {
	return "HTTP_AUTHORIZATION=Basic " + base64.StdEncoding.EncodeToString([]byte(s))
}

// TestRules: what single rules do.
func TestRules(t *testing.T) {
	testenv.Leaks(t)
	const app = "200 OK | X-App: yes | app "
	for _, c := range []struct{ lines, line, vars, want string }{
		{"route = ^/x last:\nroute-run = return:404", "GET /x", "", app + "/x?"},
		{"route = ^/x last:\nroute-run = return:404", "GET /y", "", "404 | Content-Type: text/plain | Not Found"},
		{"route-run = return:404 Gone Away", "GET /y", "", "404 Gone Away | Content-Type: text/plain | Gone Away"},
		{"route-run = break:", "GET /", "", "403"},
		{"route-run = break:503 Later", "GET /", "", "503 Later | Content-Type: text/plain"},
		{"route = ^/(\\w+)/(.*)$ redirect:https://${HTTP_HOST}/$2/$1?$0", "GET /a/b", "", "302 | Location: https://example.org/b/a?/a/b | Content-Type: text/plain | Moved"},
		{"route = ^/a redirect-301:$0$1$9", "GET /a", "", "301 | Location: /a | Content-Type: text/plain | Moved Permanently"},
		{"route = (?s)(.*) redirect:/n$1", "GET /x", "PATH_INFO=/a\r\nSet-Cookie: x=é", "302 | Location: /n/a%0D%0ASet-Cookie:%20x=%C3%A9 | Content-Type: text/plain | Moved"},
		{"route-if-not = equal:${HTTPS};on redirect-permanent:https://${HTTP_HOST}${REQUEST_URI}", "GET /a?b", "", "301 | Location: https://example.org/a?b | Content-Type: text/plain | Moved Permanently"},
		{"route-if-not = equal:${HTTPS};on redirect-permanent:https://${HTTP_HOST}${REQUEST_URI}", "GET /a?b", "HTTPS=on", app + "/a?b"},
		{"route-if = equal:${PATH_INFO} return:404", "GET /", "", app + "/?"},
		{"route-if-not = equal:${PATH_INFO} return:404", "GET /", "", "404 | Content-Type: text/plain | Not Found"},
		{"route = ^/a goto:there\nroute-run = last:\nroute-label = there\nroute-run = return:410", "GET /a", "", "410 | Content-Type: text/plain | Gone"},
		{"route = ^/a goto:there\nroute-run = last:\nroute-label = there\nroute-run = return:410", "GET /b", "", app + "/b?"},
		{"route = ^/(.) goto:l$1\nroute-run = last:\nroute-label = la\nroute-run = return:410", "GET /a", "", "410 | Content-Type: text/plain | Gone"},
		{"route = ^/(.) goto:l$1\nroute-label = la\nroute-run = return:410", "GET /z", "", "error 500"},
		{"route-label = la\nroute = ^/(.) goto:l$1\nroute-run = return:410", "GET /a", "", "error 500"},
		{"route-run = goto:2\nroute-run = return:404\nroute-run = return:410", "GET /", "", "410 | Content-Type: text/plain | Gone"},
		{"route = ^/x/(.*) rewrite:/y/$1?new=1", "GET /x/a%20b?old=2", "PATH_INFO=/x/a b", app + "/y/a b?new=1&old=2"},
		{"route = ^/x rewrite:/a/%2e%2e/../..", "GET /x", "", app + "/?"},
		{"route = ^/x/(.*) rewrite:/y/$1", "GET /", "PATH_INFO=/x/%2e%2e/%2e%2e/etc", app + "/y/%2e%2e/%2e%2e/etc?"},
		{"route = ^/x/(.*) rewrite:/y/$1", "GET /", "PATH_INFO=/x/100%?admin=1#é +&", app + "/y/100%?admin=1#é +&?"},
		{"route = ^/x/(.*) rewrite:/y?q=$1&n=2", "GET /", "PATH_INFO=/x/a&admin=1?+%41", app + "/y?q=a%26admin=1%3F%2B%2541&n=2"},
		{"route = ^/x rewrite:/y${PATH_INFO}?u=${REMOTE_USER}&l=${lower[PATH_INFO]}", "GET /", "PATH_INFO=/x?A;REMOTE_USER=a&b;", app + "/y/x?A;REMOTE_USER=a&b;?u=&l=/x%3Fa%3Bremote_user=a%26b%3B"},
		{"route-if = regexp:${PATH_INFO};^/x/(.*) rewrite:/y/$1", "GET /", "PATH_INFO=/x/a?b", app + "/y/a?b?"},
		{"route-if = regexp:${lower[PATH_INFO]};^/x/(.*) rewrite:/y/$1", "GET /", "PATH_INFO=/X/A%2e?b", app + "/y/a%2e?b?"},
		{"route-uri = ^/x/(.*) rewrite:/y/$1", "GET /x/a%20b%2e?c=%20d", "", app + "/y/a b.?c=%20d&c=%20d"},
		{"route-if = regexp:${REQUEST_URI};^/x/(.*) rewrite:/y/$1", "GET /x/a%20b", "", app + "/y/a b?"},
		{"route = ^/x/(.*) rewrite:/100%/$1%zz%00", "GET /", "PATH_INFO=/x/a b", app + "/100%/a b%zz%00?"},
		{"route = ^/x redirect:https://a${PATH_INFO}?q=$0", "GET /", "PATH_INFO=/x/a?b%2f&c d", "302 | Location: https://a/x/a%3Fb%252f&c%20d?q=/x | Content-Type: text/plain | Moved"},
		{"route = ^/x/(.*) seturi:/y/$1\nroute-run = addheader:U: ${REQUEST_URI}", "GET /", "PATH_INFO=/x/%2e%2e/a?b", "200 OK | X-App: yes | U: /y/%252e%252e/a%3Fb | app /x/%2e%2e/a?b?"},
		{"route-host = ^admin\\.ex return:403", "GET /", "HTTP_HOST=ADMIN.ex", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^Admin\\.ex$ return:403", "GET /", "HTTP_HOST=admin.ex", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^admin\\.ex$ return:403", "GET /", "HTTP_HOST=admin.ex:8080", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^admin\\.ex$ return:403", "GET /", "HTTP_HOST=Admin.eX.", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^admin\\.ex$ return:403", "GET /", "HTTP_HOST=admin.ex.:80", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^\\[::1\\]$ return:403", "GET /", "HTTP_HOST=[::1]:80", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^\\[:$ return:403", "GET /", "HTTP_HOST=[::1]", app + "/?"},
		{"route-host = :8080$ return:403", "GET /", "HTTP_HOST=admin.ex:8080", "403 | Content-Type: text/plain | Forbidden"},
		{"route-host = ^admin\\.ex$ return:403", "GET /", "HTTP_HOST=admin.ex.org", app + "/?"},
		{"route-host = ^(.*)\\.ex$ addheader:A: $1", "GET /", "HTTP_HOST=Shop.ex:80", "200 OK | X-App: yes | A: Shop | app /?"},
		{"route-host = ^shop$ return:403", "GET /", "HTTP_HOST=", app + "/?"},
		{"route = ^/ return:403", "GET /", "PATH_INFO=", "403 | Content-Type: text/plain | Forbidden"},
		{"route = ^/(.*)$ addheader:A: [$1]", "GET /", "PATH_INFO=", "200 OK | X-App: yes | A: [] | app ?"},
		{"route = ^$ return:404", "GET /", "PATH_INFO=", "404 | Content-Type: text/plain | Not Found"},
		{"route = ^$ return:404", "GET /", "", app + "/?"},
		{"route = ^/x return:404", "GET /", "PATH_INFO=", app + "?"},
		{"route = ^/x rewrite-last:/y\nroute = ^/y return:404", "GET /x?q", "", app + "/y?q"},
		{"route = ^/x rewrite:/y\nroute = ^/y return:404", "GET /x?q", "", "404 | Content-Type: text/plain | Not Found"},
		{"route-run = addheader:X-A: ${REQUEST_METHOD}\nroute-run = delheader:x-app", "GET /", "", "200 OK | X-A: GET | app /?"},
		{"route-run = addheader:X-A: ${HTTP_X}", "GET /", "HTTP_X=a\r\nb", app + "/?"},
		{"route-run = addheader:Connection: close", "GET /", "", "200 OK | X-App: yes | Connection: close | app /?"},
		{"route-run = addheader:Connection: ${HTTP_X}", "GET /", "HTTP_X=upgrade", app + "/?"},
		{"route-run = addheader:${HTTP_X}: 5", "GET /", "HTTP_X=Content-Length", app + "/?"},
		{"route-run = addheader:Transfer-Encoding: chunked", "GET /", "", app + "/?"},
		{"route-run = addheader:Connection: close\nroute-run = delheader:Connection", "GET /", "", "200 OK | X-App: yes | Connection: close | app /?"},
		{"add-header = X-B: c\ndel-header = X-App", "GET /", "", "200 OK | X-B: c | app /?"},
		{"route-run = clearheaders:201 Made\nroute-run = addheader:X-A: b\nroute-run = send:hello ${NONE}\nroute-run = send-crnl:${REQUEST_METHOD}\nroute-run = break:", "GET /", "", "201 Made | X-A: b | hello GET\r\n"},
		{"route-run = send:hello\nroute-run = break:", "GET /", "", "200 | hello"},
		{"route-run = send:before ${NONE}", "GET /", "", "200 OK | X-App: yes | before app /?"},
		{"route-run = addvar:A=${REQUEST_METHOD}-\nroute-run = addvar:A=${A}x\nroute-run = setpathinfo:${A}", "GET /", "", app + "GET-x?"},
		{"route-run = addvar:N=10\nroute-run = /:N,2\nroute-run = +:N\nroute-run = *:N,${N}\nroute-run = -:N,-1\nroute-run = setpathinfo:${N}", "GET /", "", app + "37?"},
		{"route-run = addvar:N=1\nroute-run = /:N,0", "GET /", "", "error 500"},
		{"route-run = setscriptname:/app\nroute-run = fixpathinfo:", "GET /app/x", "", app + "/x?"},
		{"route-run = setuser:joe:secret\nroute-run = setpathinfo:${REMOTE_USER}", "GET /", "", app + "joe?"},
		{"route-run = hash:key=${REMOTE_ADDR},var=H,items=a;b;c\nroute-run = setpathinfo:${H}", "GET /", "", app + "b?"},
		{"route-run = hash:algo=murmur2,key=alice,var=H,items=a;b;c;d;e\nroute-run = setpathinfo:${H}", "GET /", "", app + "d?"},
		{"route-run = expires:unix=0,value=60", "GET /", "", "200 OK | X-App: yes | Expires: Thu, 01 Jan 1970 00:01:00 GMT | app /?"},
		{"route-run = rpc:join a ${REQUEST_METHOD} \"b c\" ${NONE}", "GET /", "", "200 | a|GET|b c|"},
		{"route-run = rpc:empty", "GET /", "", "error 500"},
		{"route-run = rpcraw:raw", "GET /", "", "402 Pay | X-A: b | now"},
		{"route-run = rpcraw:join nonsense", "GET /", "", "error 502"},
		{"route-run = rpcraw:empty", "GET /", "", app + "/?"},
		{"route-run = rpcvar:A fail\nroute-if = empty:${A} return:403", "GET /", "", "403 | Content-Type: text/plain | Forbidden"},
		{"route-run = rpcnext:join x y", "GET /", "", "200 OK | X-App: yes | x|yapp /?"},
		{"route-run = rpcret:join \"break 402\"", "GET /", "", "402 | Content-Type: text/plain"},
		{"route-run = rpcret:join \"goto x\"\nroute-run = last:\nroute-label = x\nroute-run = return:410", "GET /", "", "410 | Content-Type: text/plain | Gone"},
		{"route-run = rpcret:join \"continue\"\nroute-run = return:410", "GET /", "", app + "/?"},
		{"route-run = rpcret:fail\n", "GET /", "", "error 500"},
		{"route = ^/p basicauth:a b,joe:x:y", "GET /p", "", "401 Authorization Required | WWW-Authenticate: Basic realm=\"a b\" | Content-Type: text/plain | Unauthorized"},
		{"route = ^/p basicauth:a b,joe:x:y\nroute-run = setpathinfo:${REMOTE_USER}", "GET /p", basic("joe:x:y"), app + "joe?"},
		{"route = ^/p basicauth:a,joe:x", "GET /p", basic("joe:y"), "401 Authorization Required | WWW-Authenticate: Basic realm=\"a\" | Content-Type: text/plain | Unauthorized"},
		{"route = ^/p basicauth-next:a,joe:x\nroute = ^/p basicauth:a,ann:y", "GET /p", basic("ann:y"), app + "/p?"},
		{"route = ^/p basicauth:a,joe:x", "GET /p", "REMOTE_USER=front", app + "/p?"},
		{"route = ^/p basicauth:a,/nowhere/at/all", "GET /p", basic("joe:y"), "error 500"},
		{"route-run = metricinc:m\nroute-run = addheader:M: ${metric[m]} ${metric[core.busy]} ${metric[none]}", "GET /", "", "200 OK | X-App: yes | M: 11 3 | app /?"},
		{"route-run = metricdec:m,${qs[n]}\nroute-run = metricmul:m,4\nroute-run = metricdiv:m,3\nroute-run = addheader:M: ${metric[m]}", "GET /?n=4", "", "200 OK | X-App: yes | M: 8 | app /?n=4"},
		{"route-run = metricset:m,-7\nroute-run = metricdiv:m,0\nroute-run = addheader:M: ${metric[m]}", "GET /", "", "200 OK | X-App: yes | M: -7 | app /?"},
		{"route-run = uwsgi:,9,0\nroute-run = return:410", "GET /", "", app + "/?"},
		{"route-run = uwsgi:,,,a,b\nroute-run = return:410", "GET /", "", app + "/?"},
		{"route-qs = a=1 return:404", "GET /?a=1", "", "404 | Content-Type: text/plain | Not Found"},
		{"route-host = ^www\\. redirect:https://example.org/", "GET /", "HTTP_HOST=www.example.org", "302 | Location: https://example.org/ | Content-Type: text/plain | Moved"},
		{"route-remote-addr = ^192\\.0\\.2\\. return:404", "GET /", "", "404 | Content-Type: text/plain | Not Found"},
		{"route-user-agent = (?i)bot return:404", "GET /", "HTTP_USER_AGENT=EvilBot", "404 | Content-Type: text/plain | Not Found"},
		{"route-uri = \\?a return:404", "GET /?a", "", "404 | Content-Type: text/plain | Not Found"},
		{"route = \\.php$ return:403", "GET /x", "PATH_INFO=/x.php\n", "403 | Content-Type: text/plain | Forbidden"},
		{"route-if = regexp:${HTTP_UPGRADE};^[Ww]eb(.*)$ setpathinfo:$1", "GET /", "HTTP_UPGRADE=WebSocket", app + "Socket?"},
		{"route-if-not = regexp:${A};x setpathinfo:[$1]", "GET /", "", app + "[]?"},
	} {
		var vars []string
		if c.vars != "" {
			vars = []string{c.vars}
		}
		newSite(t, c.lines, vassal.Static{}, nil).want(t, c.want, c.line, vars...)
	}
}

// TestConditions: each condition, true and false.
func TestConditions(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/f", nil, 0o644), os.WriteFile(dir+"/x", nil, 0o755), os.Mkdir(dir+"/d", 0o755), os.Symlink("f", dir+"/l")); err != nil {
		t.Fatal(err)
	}
	covered := map[string]bool{}
	for _, c := range []struct {
		test string
		want bool
	}{
		{"exists:D/f", true}, {"exists:D/n", false}, {"exists:", false}, {"isfile:D/f", true}, {"isfile:D/d", false}, {"isfile:D/l", true}, {"isdir:D/d", true}, {"isdir:D/f", false},
		{"islink:D/l", true}, {"islink:D/f", false}, {"isexec:D/x", true}, {"isexec:D/f", os.Geteuid() == -1}, {"isexec:", false},
		{"empty:${NONE}", true}, {"empty:${PATH_INFO}", false}, {"equal:${PATH_INFO};/a", true}, {"==:b;a", false}, {"startswith:${PATH_INFO};/", true}, {"startswith:a;b", false},
		{"endswith:abc;bc", true}, {"endswith:abc;ab", false}, {"contains:abc;b", true}, {"contain:abc;x", false}, {"ishigher:10;9", true}, {">:9;10", false}, {"islower:;1", true}, {"<:1;1", false},
		{"ishigherequal:1;1", true}, {">=:-2;-1", false}, {"islowerequal: 1x;1", true}, {"<=:2;1", false}, {"ipv4in:${REMOTE_ADDR};192.0.2.0/24", true}, {"ipv4in:${REMOTE_ADDR};192.0.3.0/24", false},
		{"ipv4in:garbage;192.0.3.0/24", false}, {"ipv4in:192.0.2.7;192.0.2.7", true}, {"ipv6in:2001:db8::1;2001:db8::/32", true}, {"ipv6in:2001:db9::1;2001:db8::/32", false},
		{"regexp:${PATH_INFO};^/a$", true}, {"re:${PATH_INFO};^/b", false}, {"incache:key=none", false},
	} {
		lines := "route-if = " + strings.NewReplacer("D/", dir+"/", ": ", ":").Replace(c.test) + " return:402"
		a, _, err := newSite(t, lines, vassal.Static{}, nil).ask(t, "GET /a")
		if err != nil || (a.status == 402) != c.want {
			t.Errorf("%s: %d %v, want %v", c.test, a.status, err, c.want)
		}
		covered[parse(t, lines).Request[0].Condition] = true
	}
	for name := range route.Conditions() {
		if !covered[name] {
			t.Errorf("no test of %s", name)
		}
	}
}

// TestFunctions: ${name[arg]}.
func TestFunctions(t *testing.T) {
	for _, c := range []struct{ text, vars, want string }{
		{"${cookie[b]}", "HTTP_COOKIE=a=1; b=2; bb=3", "2"}, {"${cookie[c]}", "HTTP_COOKIE=a=1", ""}, {"${qs[b]}", "QUERY_STRING=a=1&b=%41&c", "%41"},
		{"${mime[PATH_INFO]}", "PATH_INFO=/a.css", "text/css"}, {"${base64[A]}", "A=hello", "aGVsbG8="}, {"${hex[A]}", "A=\xff1", "ff31"}, {"${upper[A]}", "A=aB", "AB"},
		{"${lower[A]}", "A=aB", "ab"}, {"${uwsgi[status]}", "", "500"}, {"${uwsgi[lq]}", "", "3"}, {"${uwsgi[wid]}", "", "0"}, {"${uwsgi[rsize]}", "", "0"},
		{"${uwsgi[pid]}", "", fmt.Sprint(os.Getpid())},
	} {
		a, r, err := newSite(t, "route-run = addvar:OUT="+c.text, vassal.Static{}, nil).ask(t, "GET /", c.vars)
		if got := r.Get("OUT"); got != c.want || err != nil || a.status != 200 {
			t.Errorf("%s: %q %v, want %q", c.text, got, err, c.want)
		}
	}
	_, r, _ := newSite(t, "route-run = addvar:OUT=${uwsgi[uuid]} ${time[unix]} ${httptime[10]} ${uwsgi[rtime]} ${uwsgi[sor]} ${time[micros]}", vassal.Static{}, nil).ask(t, "GET /")
	if f := strings.Fields(r.Get("OUT")); len(f) != 11 || len(f[0]) != 36 || f[7] != "GMT" {
		t.Errorf("%q", f)
	}
}

// TestActionsCovered: what may be written is what can be done.
func TestActionsCovered(t *testing.T) {
	for _, name := range route.Actions() {
		if compilers[name] == nil {
			t.Errorf("%s is accepted and cannot be carried out", name)
		}
	}
	for name := range compilers {
		if !slices.Contains(route.Actions(), name) {
			t.Errorf("%s can be carried out and is not accepted", name)
		}
	}
}

// TestChains: rules about answers.
func TestChains(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/404.html", []byte("sorry"), 0o644), os.WriteFile(dir+"/file.txt", []byte("the file"), 0o644)); err != nil {
		t.Fatal(err)
	}
	app := func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		switch r.Get("PATH_INFO") {
		case "/404":
			w.Head(404, "", []exchange.Field{{Name: "X-App", Value: "yes"}})
			io.WriteString(w, "app's own")
			return nil
		case "/fail":
			return &exchange.StatusError{Status: 502, Err: errors.New("the worker died")}
		case "/send":
			w.Head(200, "OK", []exchange.Field{{Name: "X-Sendfile", Value: dir + "/file.txt"}, {Name: "Set-Cookie", Value: "a=b"}, {Name: "Content-Length", Value: "9"}})
			io.WriteString(w, "app's own")
			return nil
		case "/away":
			w.Head(200, "OK", []exchange.Field{{Name: "X-Sendfile", Value: "/etc/passwd"}})
			return nil
		case "/broken":
			w.Head(200, "OK", []exchange.Field{{Name: "X-Sendfile", Value: dir + "/file.txt"}})
			return errors.New("the application raised an exception")
		}
		w.Head(200, "OK", []exchange.Field{{Name: "Content-Length", Value: "3"}, {Name: "X-App", Value: "yes"}})
		io.WriteString(w, "app")
		return nil
	}
	s := vassal.Static{Safe: []string{dir}}
	sendfile := "collect-header = X-Sendfile X_SENDFILE\nresponse-route-if-not = empty:${X_SENDFILE} static:${X_SENDFILE}\n"
	const file = "200 | Content-Type: text/plain | the file"
	for _, c := range []struct{ lines, line, want string }{
		{"error-route-status = 404 redirect:/sorry", "GET /404", "302 | Location: /sorry | Content-Type: text/plain | Moved"},
		{"error-route-status = 404 redirect:/sorry", "GET /", "200 OK | X-App: yes | app"},
		{"error-route-status = 502 static:" + dir + "/404.html", "GET /fail", "200 | Content-Type: text/html | sorry"},
		{"error-route-run = addheader:X-S: ${uwsgi[status]}", "GET /fail", "502 | Content-Type: text/plain; charset=utf-8 | X-S: 502 | 502 Bad Gateway\n"},
		{"error-route-run = addheader:X-S: ${uwsgi[status]}", "GET /404", "404 | X-App: yes | X-S: 404 | app's own"},
		{"error-route-run = redirect:/loop", "GET /", "302 | Location: /loop | Content-Type: text/plain | Moved"},
		{"error-route-status = 404 static:/nowhere/x", "GET /404", "404 | Content-Type: text/plain; charset=utf-8 | 404 Not Found\n"},
		{"response-route-status = 404 break:", "GET /404", "404"},
		{"response-route = ^/404 clearheaders:410 Gone\nresponse-route-run = addheader:X-A: b", "GET /404", "410 Gone | X-A: b | app's own"},
		{"response-route-run = send:more ${NONE}", "GET /", "200 OK | X-App: yes | more app"},
		{"pull-header = X-App A\nresponse-route-run = addheader:X-Was: ${A}", "GET /", "200 OK | X-Was: yes | app"},
		{sendfile, "GET /send", file},
		{sendfile, "POST /send", file},
		{sendfile, "GET /", "200 OK | X-App: yes | app"},
		{sendfile, "GET /away", "404 | Content-Type: text/plain; charset=utf-8 | 404 Not Found\n"},
		{sendfile, "GET /broken", file},
		{sendfile + "add-header = X-B: c\nroute-run = addheader:X-A: b", "GET /send", "200 | Content-Type: text/plain | X-B: c | X-A: b | the file"},
		{sendfile + "error-route-status = 404 redirect:/sorry", "GET /away", "302 | Location: /sorry | Content-Type: text/plain | Moved"},
		{"route-run = file:filename=" + dir + "/file.txt,status=203 Copied,mime=1", "GET /", "203 Copied | Content-Type: text/plain | the file"},
		{"route-run = sendfile-next:filename=" + dir + "/none\nroute-run = static-next:" + dir + "/none\nroute-run = static-next:" + dir + "/file.txt", "GET /", file},
		{"route = ^/f/(.*) static:" + dir + "/$1", "GET /f/file.txt", file},
		{"route-qs = (.*) static:" + dir + "/$1", "GET /?../../etc/passwd", "error 404"},
	} {
		newSite(t, c.lines, s, app).want(t, c.want, c.line)
	}
}

// TestStaticFirst: rules come before a file is sent, and see the index.
func TestStaticFirst(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/sub", 0o755), os.WriteFile(dir+"/sub/index.html", []byte("page"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := vassal.Static{Check: []string{dir}, Index: []string{"index.html"}}
	h := newSite(t, "route = \\.html$ basicauth:a,joe:x\nroute-run = addheader:X-P: ${PATH_INFO}\nroute-run = rewrite:/elsewhere\n", s, nil)
	for _, p := range []string{"/sub", "/sub/", "/sub/index.html"} {
		h.want(t, "401 Authorization Required | WWW-Authenticate: Basic realm=\"a\" | Content-Type: text/plain | Unauthorized", "GET "+p)
		h.want(t, "200 | Content-Type: text/html | X-P: /sub/index.html | page", "GET "+p, basic("joe:x"))
	}
	h.want(t, "200 OK | X-App: yes | X-P: /none | app /elsewhere?", "GET /none")
}

// TestFinal: final rules see the answer, and change what is logged.
func TestFinal(t *testing.T) {
	s := newSite(t, "final-route-status = 200 logvar:name=${uwsgi[status]} ${REQUEST_METHOD}\nfinal-route = ^/quiet donotlog:\nfinal-route-run = log:done ${PATH_INFO}\nfinal-route-run = rpcvar:A join x\nfinal-route-run = redirect:/x", vassal.Static{}, nil)
	_, r, err := s.ask(t, "GET /quiet")
	if err != nil || !r.Info.Quiet || len(r.Info.Extra) != 1 || r.Info.Extra[0] != (exchange.Var{Name: "name", Value: "200 GET"}) || r.Get("A") != "x" {
		t.Errorf("%v %+v", err, r.Info)
	}
	if !strings.Contains(s.log.String(), `says="done /quiet"`) {
		t.Error(s.log.String())
	}
}

// TestPasswords: every hash that a password file may hold, and a file that
// changes.
func TestPasswords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\ndes:arlEKn0OzVJn.\ndeslong:./x0kTlw5iEAs\nmd5:$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1\napr:$apr1$xxxxxxxx$/mULyOsdWlXlIt5U99q7h1\n" +
		"sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbcrypt:$2y$05$Tc2g5vLWqG5.v4tXsWZvUOQHb3SLjJR2UWU9Ts1eT9qbYQx3q7o3K\nodd:$9$x\nempty:\nshort:ab\n" +
		"five:$5$abcdefgh$gruCpC7VkOTspMQTTSAR8mtlO9Upms.fwqE5y16JVM.\nsix:$6$abcdefgh$ltjgWl6579NluT/Vi1nwEvcil.G5Nbc4NiXZaNGStk8PSwGfQv72N2CKPPrVACtLtip/cZ/1GM/O6IND4WQhG.\nbadsix:$6$\nbadmd5:$1$x\n")
	s := newSite(t, "route-run = basicauth:a,"+file, vassal.Static{}, nil)
	status := func(cred string) int {
		t.Helper()
		a, _, err := s.ask(t, "GET /", basic(cred))
		if err != nil {
			return exchange.StatusOf(err)
		}
		return a.status
	}
	for cred, want := range map[string]int{"des:foob": 401, "deslong:longpassword": 401, "five:secret": 200, "six:secret": 200, "six:Secret": 401, "badsix:x": 401, "badmd5:x": 401,
		"md5:secret": 200, "md5:Secret": 401, "apr:secret": 200, "apr:": 401,
		"sha:secret": 200, "sha:x": 401, "odd:x": 401, "empty:": 401, "nobody:x": 401, "short:": 401, "bcrypt:wrong": 401} {
		for range 2 { // the second time it is remembered
			if got := status(cred); got != want {
				t.Errorf("%s: %d, want %d", cred, got, want)
			}
		}
	}
	if !strings.Contains(s.log.String(), "line 2: the traditional crypt(3)") || strings.Contains(s.log.String(), "arlEKn0OzVJn") {
		t.Errorf("the log says %s", s.log.String())
	}
	write("md5:changed\n")
	if got := status("md5:secret"); got != 401 {
		t.Errorf("after a change: %d", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := status("md5:secret"); got != 500 {
		t.Errorf("without the file: %d", got)
	}
}

// TestAuthorizer: what a FastCGI authorizer says is what happens.
func TestAuthorizer(t *testing.T) {
	testenv.Leaks(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	record := func(kind byte, s string) string {
		return string([]byte{1, kind, 0, 1, byte(len(s) >> 8), byte(len(s)), 0, 0}) + s
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			said := "Status: 403 No\r\nX-A: b\r\n\r\nno"
			if strings.Contains(string(buf[:n]), "good") && !strings.Contains(string(buf[:n]), "CONTENT_LENGTH") && buf[9] == 2 {
				said = "Status: 200 OK\r\nVariable-WHO: joe\r\nX-A: b\r\n\r\n"
			}
			io.WriteString(c, record(6, said)+record(3, "12345678"))
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	s := newSite(t, "route-run = fcgiauth:"+l.Addr().String()+"\nroute-run = setpathinfo:${WHO}", vassal.Static{}, nil)
	s.want(t, "200 OK | X-App: yes | app joe?", "GET /", "HTTP_COOKIE=good", "CONTENT_LENGTH=5")
	s.want(t, "403 No | X-A: b | no", "GET /", "HTTP_COOKIE=bad")
	s = newSite(t, "route-run = fcgiauth:/nowhere/s", vassal.Static{}, nil)
	s.want(t, "error 502", "GET /")
}

// TestAgain: what answers may ask for another path (a CGI program's local
// redirect): rules look at that path too, and at the answer once.
func TestAgain(t *testing.T) {
	s := newSite(t, "route = ^/secret return:403\nadd-header = X-A: b", vassal.Static{}, nil)
	app := s.h.cfg.Next
	s.h.cfg.Next = exchange.HandlerFunc(func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if to := r.Get("QUERY_STRING"); to != "" {
			other := &exchange.Request{Vars: slices.Clone(r.Vars), Body: r.Body}
			other.Set("PATH_INFO", to)
			other.Set("QUERY_STRING", "")
			return s.h.Serve(ctx, other, w)
		}
		return app.Serve(ctx, r, w)
	})
	s.want(t, "200 OK | X-App: yes | X-A: b | app /there?", "GET /?/there")
	s.want(t, "403 | Content-Type: text/plain | X-A: b | Forbidden", "GET /?/secret")
}

// TestHandlers: rules choose who answers.
func TestHandlers(t *testing.T) {
	for rule, want := range map[string]uint8{"setmodifier1:9": 9, "uwsgi:,9,0": 9, "uwsgi:,9,,a": 9, "uwsgi:,,0": 0, "last:": 5} {
		var got uint8
		s := newSite(t, "route-run = "+rule, vassal.Static{}, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
			got = r.Modifier1
			return w.Head(204, "", nil)
		})
		r := &exchange.Request{Body: strings.NewReader(""), Modifier1: 5}
		if err := s.h.Serve(t.Context(), r, &answered{}); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", rule, got, err, want)
		}
	}
}

// TestUpstreamTarget: a path in the target of an upstream is the path that rules
// saw, whoever decodes it there.
func TestUpstreamTarget(t *testing.T) {
	testenv.Leaks(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer l.Close()
	lines := make(chan string, 1)
	all.Go(func() {
		c, err := l.Accept()
		if err != nil {
			lines <- "nothing"
			return
		}
		defer c.Close()
		line, _ := bufio.NewReader(c).ReadString('\n')
		lines <- line
		io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	s := newSite(t, "route = ^/public/(.*) http:"+l.Addr().String()+",,/app/$1", vassal.Static{}, nil)
	s.want(t, "204 No Content", "GET /", "PATH_INFO=/public/%2e%2e/admin?a b")
	l.Close()
	if got := <-lines; got != "GET /app/%252e%252e/admin%3Fa%20b HTTP/1.1\r\n" {
		t.Errorf("the upstream is asked %q", got)
	}
}

// TestNoDescriptors: a file that nobody can look at is not one that is not
// there: the next rule may let somebody in.
func TestNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("file"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"static-next:" + dir + "/f", "static:" + dir + "/f", "sendfile-next:filename=" + dir + "/f", "file:filename=" + dir + "/f"} {
		s := newSite(t, "route-run = "+action, vassal.Static{}, nil)
		testenv.WithoutDescriptors(t, func() { s.want(t, "error 503", "GET /") })
	}
}

// TestRuleDirectory: what a rule says before its first variable bounds the files
// that it sends, links too.
func TestRuleDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/www", 0o755), os.Mkdir(dir+"/home", 0o755), os.WriteFile(dir+"/www/f", []byte("file"), 0o644), os.WriteFile(dir+"/www-f", []byte("beside"), 0o644),
		os.WriteFile(dir+"/home/key", []byte("key"), 0o644), os.Symlink("../home/key", dir+"/www/link"), os.Symlink("f", dir+"/www/in")); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"static:" + dir + "/www${P}", "file:filename=" + dir + "/www${P}"} {
		s := newSite(t, "route-run = "+action, vassal.Static{}, nil)
		for p, want := range map[string]string{"/f": "file", "/in": "file", "/link": "", "/../home/key": "", "/../www-f": "", "-f": "beside", "": ""} {
			a, _, err := s.ask(t, "GET /", "P="+p)
			if a.body.String() != want || (err != nil) != (want == "") {
				t.Errorf("%s, %q: %s %v", action, p, a, err)
			}
		}
	}
}

// around is a Response around another one, as of whoever packs answers.
type around struct{ exchange.Response }

func (a around) Unwrap() exchange.Response { return a.Response }

// TestLocalRedirect: rules about the answer apply once to the request that an
// application's answer leads to, whatever lies around the Response that it was given.
func TestLocalRedirect(t *testing.T) {
	var s *site
	s = newSite(t, "add-header = X-Once: 1\nresponse-route-run = addheader:X-Rule: 1\n", vassal.Static{}, func(ctx context.Context, r *exchange.Request, w exchange.Response) error {
		if r.Get("PATH_INFO") == "/" {
			next := *r
			next.Set("PATH_INFO", "/there")
			return s.h.Serve(ctx, &next, around{w})
		}
		if err := w.Head(200, "OK", nil); err != nil {
			return err
		}
		_, err := io.WriteString(w, r.Get("PATH_INFO"))
		return err
	})
	s.want(t, "200 OK | X-Once: 1 | X-Rule: 1 | /there", "GET /")
}
