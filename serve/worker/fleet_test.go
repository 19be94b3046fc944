package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/serve/exchange"
	"liege/vassal"
)

// mountApps writes three applications whose modules have the same names, and
// mounts them.
func mountApps(t *testing.T, app *vassal.App, one bool) {
	t.Helper()
	m := &vassal.Mounting{OneForAll: one}
	for i := 1; i <= 3; i++ {
		dir := filepath.Join(app.Dir, fmt.Sprint("d", i))
		text := fmt.Sprintf("import uwsgi, os\nwho = %d\nuwsgi.register_rpc('rpc%d', lambda: 'rpc%d')\nimport json\njson.counter = getattr(json, 'counter', 0) + 1\n"+
			"def app(e, s):\n    if e['PATH_INFO'] == '/boom': raise ValueError('boom')\n    s('200 OK', [])\n    return [('%%d %%s %%d %%s' %% (who, __name__, json.counter, 'liege.app' in e)).encode()]\n", i, i, i)
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "app.py"), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		m.Mounts = append(m.Mounts, vassal.Mount{Point: fmt.Sprint("/app", i), File: filepath.Join(dir, "app.py"), Callable: "app"})
	}
	app.Mounting = m
	app.Workers.Python.File, app.Workers.Python.Callable = m.Mounts[0].File, "app"
}

func askMount(r *running, script, path string) (string, error) {
	req := request("GET", path, "")
	req.Set("SCRIPT_NAME", script)
	rec, err := r.do(req)
	return rec.body.String(), err
}

// TestNoDefaultApp: outside the mount points nobody answers, be there one
// application or several.
func TestNoDefaultApp(t *testing.T) {
	for n := 1; n <= 2; n++ {
		for _, one := range []bool{false, true} {
			r := start(t, "", func(app *vassal.App) {
				mountApps(t, app, one)
				app.Mounting.Mounts, app.Mounting.Default = app.Mounting.Mounts[:n], -1
			})
			for script, want := range map[string]int{"/app1": 200, "/app1/": 200, "": 404, "/app10": 404, "/other": 404} {
				_, err := askMount(r, script, "/")
				if got := exchange.StatusOf(err); err == nil && want != 200 || err != nil && got != want {
					t.Errorf("%d mounted, single=%t, %q: %v, want %d", n, one, script, err, want)
				}
			}
			req := request("GET", "/", "")
			req.Set("UWSGI_APPID", "/app1") // of the rule setapp
			if rec, err := r.do(req); err != nil || !strings.HasPrefix(rec.body.String(), "1 ") {
				t.Errorf("%d mounted, chosen by name: %q, %v", n, rec.body.String(), err)
			}
		}
	}
}

func TestFleet(t *testing.T) {
	for _, one := range []bool{false, true} {
		t.Run(fmt.Sprint("single=", one), func(t *testing.T) {
			r := start(t, "", func(app *vassal.App) { app.Workers.Processes = 2; mountApps(t, app, one) })
			for script, who := range map[string]string{"/app1": "1", "/app2": "2", "/app3": "3", "": "1", "/other": "1"} {
				got, err := askMount(r, script, "/")
				loaded := "1" // each has modules of its own
				if one {
					loaded = "3"
				}
				f := strings.Fields(got)
				if err != nil || len(f) != 4 || f[0] != who || f[2] != loaded || f[3] != "False" {
					t.Errorf("%q: got %q, %v", script, got, err)
				}
			}
			if _, err := askMount(r, "/app2", "/boom"); exchange.StatusOf(err) != 500 {
				t.Errorf("an exception: %v", err)
			}
			for i := 1; i <= 3; i++ {
				name := fmt.Sprint("rpc", i)
				if got, err := r.Call(context.Background(), name, nil); got != name || err != nil {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
			if _, err := r.Call(context.Background(), "none", nil); !errors.Is(err, errNoFunction) {
				t.Errorf("a function nobody has: %v", err)
			}
			var requests, failed, boom uint64
			st := r.Stats()
			for _, w := range st.Workers {
				if len(w.Apps) != 3 || w.Apps[1].Mount != "/app2" || (w.Apps[0].PID != 0) == one {
					t.Errorf("stats: %+v", w.Apps)
				}
				for _, a := range w.Apps {
					requests += a.Requests
					failed += a.Errors
				}
				boom += w.Apps[1].Errors
			}
			if len(st.Workers) != 2 || requests < 6 || failed < 1 || boom != 1 {
				t.Errorf("stats: %d requests, %d failed: %+v", requests, failed, st)
			}
		})
	}
}

// TestFleetOfOthers: applications of Ruby and of Perl have processes of their
// own, and one that does not load is named by its own line.
func TestFleetOfOthers(t *testing.T) {
	for language, c := range map[string]struct{ extension, text string }{
		"ruby": {".ru", "run lambda { |e| [200, {}, [[%q, e['SCRIPT_NAME'], e['PATH_INFO'], Process.pid, $0].join(' ')]] }\n"},
		"perl": {".psgi", "sub { my $e = shift; [200, [], [join ' ', %q, $e->{SCRIPT_NAME}, $e->{PATH_INFO}, $$, $0]] }\n"},
	} {
		var fixture *Pool
		for _, broken := range []bool{false, true} {
			set := func(app *vassal.App) {
				m := &vassal.Mounting{}
				for i, point := range []string{"/one", "/two"} {
					file := filepath.Join(app.Dir, point[1:]+c.extension)
					writeFile(t, file, fmt.Sprintf(c.text, point[1:]))
					m.Mounts = append(m.Mounts, vassal.Mount{Point: point, Language: language, File: file, At: vassal.Origin{File: "shop.ini", Line: 8 + i}})
				}
				if broken {
					writeFile(t, m.Mounts[1].File, "this ( is nothing\n")
				}
				app.Mounting = m
				own := m.Mounts[0].Workers(*app.Workers)
				app.Workers = &own
			}
			var app *vassal.App
			var log string
			if language == "ruby" {
				fixture, app, log = rackFixture(t, "", set)
			} else {
				fixture, app, log = psgiFixture(t, "", set)
			}
			if broken {
				problem, ok := errors.AsType[*vassal.Problem](fixture.Run(t.Context()))
				if !ok || problem.Line != 9 || problem.Key != "mount" || problem.Code != vassal.CodeImportError {
					t.Errorf("%s: the problem is %+v", language, problem)
				}
				continue
			}
			r := run(t, fixture, app, log)
			pids := map[string]bool{}
			for script, want := range map[string]string{"/one": "one /one /x shop worker 1", "/two": "two /two /x shop/two worker 1", "/none": "one /none /x shop worker 1"} {
				got, err := askMount(r, script, "/x")
				f := strings.Fields(got)
				if err != nil || len(f) < 5 || strings.Join(append(f[:3:3], f[4:]...), " ") != want {
					t.Errorf("%s %s: %q %v, want %q", language, script, got, err, want)
					continue
				}
				pids[f[3]] = true
			}
			if len(pids) != 2 {
				t.Errorf("%s: %d processes answered", language, len(pids))
			}
		}
	}
}

func TestFleetNoDefault(t *testing.T) {
	r := start(t, "", func(app *vassal.App) { mountApps(t, app, false); app.Mounting.Default = -1 })
	if _, err := askMount(r, "/none", "/"); exchange.StatusOf(err) != 404 {
		t.Errorf("outside the mount points: %v", err)
	}
	if got, err := askMount(r, "/app3", "/"); err != nil || !strings.HasPrefix(got, "3") {
		t.Errorf("%q %v", got, err)
	}
}

// TestFleetFails: one application that does not load keeps all from serving,
// and its own line is named.
func TestFleetFails(t *testing.T) {
	for _, one := range []bool{false, true} {
		p, _, _ := newFixture(t, "", func(app *vassal.App) {
			mountApps(t, app, one)
			app.Mounting.Mounts[1].At = vassal.Origin{File: "shop.ini", Line: 9}
			if err := os.WriteFile(app.Mounting.Mounts[1].File, []byte("import nothing_of_this_name\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		})
		err := p.Run(t.Context())
		var problem *vassal.Problem
		if !errors.As(err, &problem) || problem.Code != vassal.CodeImportError || problem.Line != 9 || problem.Key != "mount" || !strings.Contains(problem.Message, "nothing_of_this_name") {
			t.Errorf("single %v: got %#v", one, err)
		}
	}
}
