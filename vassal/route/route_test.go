package route

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/vassal"
)

func TestOption(t *testing.T) {
	for key, want := range map[string]string{
		"route": "request ", "route-host": "request host", "route-if-not": "request if-not", "error-route-status": "error status",
		"response-route": "response ", "final-route-label": "final label", "route-status": "-", "route-": "-", "routes": "-", "router-list": "-",
		"route-nothing": "-", "errors-route": "-", "": "-",
	} {
		c, kind, ok := Option(key)
		got := string(c) + " " + kind
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

// TestTranslate: what PCRE means is what package regexp is told, or refused.
// The expectations about matching were taken from PCRE itself (TestPCRE).
func TestTranslate(t *testing.T) {
	for _, c := range []struct{ in, out, why string }{
		{`^/admin`, `^/admin`, ""},
		{`\.php$`, `\.php(?:\n?\z)`, ""},
		{`(?m)^a$`, `(?m)^a$`, ""},
		{`[$]$`, `[$](?:\n?\z)`, ""},
		{`\$$`, `\$(?:\n?\z)`, ""},
		{`a\hb`, `a[\t ]b`, ""},
		{`[\h-]`, `[\t -]`, ""},
		{`\Q$(a\E$`, `\Q$(a\E(?:\n?\z)`, ""},
		{`a(?#comment)b`, `ab`, ""},
		{`(?'name'a)`, `(?P<name>a)`, ""},
		{`(?<name>a)`, `(?<name>a)`, ""},
		{`[]a]`, `[]a]`, ""},
		{`[^]a]`, `[^]a]`, ""},
		{`[[:alpha:]_]`, `[[:alpha:]_]`, ""},
		{`[a[b]`, `[a\[b]`, ""},
		{`a{,3}`, `a{,3}`, ""},
		{`x\Z`, `x(?:\n?\z)`, ""},
		{`a+?`, `a+?`, ""},
		{`[+]+`, `[+]+`, ""},
		{`(?i)^/Admin`, `(?i)^/Admin`, ""},
		{`^(?!a)`, "", "negative look-ahead"},
		{`(?<=a)b`, "", "look-behind"},
		{`(a)\1`, "", "back reference"},
		{`\g{1}`, "", "back reference"},
		{`(?P=n)`, "", "back reference"},
		{`a++`, "", "possessive"},
		{`a{2}+`, "", "possessive"},
		{`(?>a)`, "", "atomic"},
		{`(?R)`, "", "recursion"},
		{`(?1)`, "", "recursion"},
		{`(?x) a`, "", "extended"},
		{`(*UTF8)a`, "", "verb"},
		{`\Ka`, "", `\K`},
		{`[\H]`, "", "class"},
		{`\xff`, "", "above 0x7f"},
		{`(a`, "", "missing closing )"},
		{`a\`, "", "backslash"},
		{`((a{100}){100}){9}`, "", "invalid repeat count"},
		{`((a{30}){30}b){30}`, "", "invalid repeat count"},
		{`(a{999}|b{999}){1}(cdefghijklmnopqrst){999}`, "", "too large"},
		{strings.Repeat("a", maxPattern+1), "", "longer"},
	} {
		out, err := Translate(c.in)
		switch {
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)):
			t.Errorf("%.60s: %q, %v; want an error with %q", c.in, out, err, c.why)
		case c.why == "" && (err != nil || out != c.out):
			t.Errorf("%s: %q, %v; want %q", c.in, out, err, c.out)
		}
	}
}

// TestPCRE compares with Perl, whose expressions PCRE's are: whether each
// matches, and what.
func TestPCRE(t *testing.T) {
	testenv.Need(t, testenv.Perl)
	for _, p := range []string{`^/admin$`, `\.php$`, `a\h+b`, `[\h]b`, `x\Z`, `^$`, `(\w+)-(\d*)`, `[]a]+`, `[^]a]+`, `a|b$`, `\bfoo\b`, `a.b`, `\R`, `[\v]`, `(?i)FOO`, `\Qa.b\E$`} {
		re, err := Translate(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		for _, s := range []string{"", "\n", "/admin", "/admin\n", "/admin\n\n", "/x.php\n", "x.php/", "a \tb", "a\nb", "x\n", "ab-12", "]]", "a]b", "aaa", "a{,3}", "b\n", "foo bar", "xfoo", "a.b\n", "\r\n", "\v", "a\rb"} {
			out, err := exec.Command("perl", "-e", `print $ARGV[1] =~ /$ARGV[0]/ ? "1$&" : "0"`, strings.NewReplacer(`\Qa.b\E`, `a\.b`).Replace(p), s).Output()
			if err != nil {
				t.Fatal(err)
			}
			got := "0"
			if m := regexp.MustCompile(re).FindStringIndex(s); m != nil {
				got = "1" + s[m[0]:m[1]]
			}
			if got != string(out) && strings.TrimSuffix(got, "\n") != string(out) { // "$" takes the line break in: documented
				t.Errorf("%s on %q: %q, Perl %q", p, s, got, out)
			}
		}
	}
}

type values struct{ vars map[string]string }

func (v values) Var(n string) string     { return v.vars[n] }
func (v values) Func(f, a string) string { return f + "(" + a + ")" }
func (v values) Capture(n int) string    { return []string{"all", "one"}[min(n, 1)] }

func TestTemplate(t *testing.T) {
	v := values{map[string]string{"A": "${B}", "B": "b", "X[": "x"}}
	for _, c := range []struct {
		in   string
		caps bool
		want string
	}{
		{"", true, ""}, {"plain", true, "plain"}, {"$0-$1", true, "all-one"}, {"$0-$1", false, "$0-$1"}, {"${A}", true, "${B}"},
		{"a${B}c", false, "abc"}, {"$x $$ $", true, "$x $$ $"}, {"${unterminated", true, "${unterminated"}, {"${none}", true, ""},
		{"${cookie[a]}", true, "cookie(a)"}, {"${httptime[60]}", true, "httptime(60)"}, {"${X[}", true, "x"}, {"$${B}", true, "$${B}"}, {"é${B}", true, "éb"},
	} {
		tm, err := ParseTemplate(c.in, c.caps)
		if err != nil || tm.Expand(v) != c.want {
			t.Errorf("%q: %q %v, want %q", c.in, tm.Expand(v), err, c.want)
		}
	}
	for _, bad := range []string{"${geoip[x]}", "${nosuch[x]}", "${time[no]}", "${uwsgi[no]}"} {
		if _, err := ParseTemplate(bad, false); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"^/admin goto:https", "equal:${HTTPS};on redirect-permanent:https://${HTTP_HOST}${REQUEST_URI}",
		"regexp:${HTTP_UPGRADE};^[Ww]eb rpcvar:A f ${B} \"c d\"", "(?'a'b)\\h[^]x]{1,2}?$ file:filename=$0,mime=1", "404 hash:key=a,var=b,items=c;d",
		"empty: basicauth:x,y:z", "ipv4in:${REMOTE_ADDR};10.0.0.0/8 http:/run/x,h,/$1"} {
		for _, k := range []string{"route", "route-if", "error-route-status", "final-route-run", "route-label"} {
			f.Add(k, s)
		}
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		r, ts := Parse(key, value)
		for _, tr := range ts {
			if tr.Code == "" || tr.Message == "" || len(tr.Message) > 1000 {
				t.Errorf("%+v", tr)
			}
		}
		if failed(ts) {
			return
		}
		if r.Regexp != "" {
			if _, err := regexp.Compile(r.Regexp); err != nil {
				t.Errorf("%s = %s: accepted, and then %v", key, value, err)
			}
		}
		if tm, err := ParseTemplate(r.ActionArg, Captures(&r)); err == nil {
			tm.Expand(values{})
		}
		Check([]vassal.Rule{r, {Label: "x"}})
	})
}

// TestPage: docs/routing.md names every action, condition and function.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("../../docs/routing.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, a := range Actions() {
		if !strings.Contains(page, "`"+a+":") {
			t.Errorf("no action %s", a)
		}
	}
	for c := range conditions {
		if conditions[c].Why == "" && !strings.Contains(page, c) {
			t.Errorf("no condition %s", c)
		}
	}
	for f := range Functions {
		if !strings.Contains(page, "${"+f+"[") {
			t.Errorf("no function %s", f)
		}
	}
}
