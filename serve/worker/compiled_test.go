package worker

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"liege/internal/testenv"
	"liege/serve/worker/lang"
	"liege/serve/worker/python"
	"liege/serve/worker/shims"
)

// packedPython is Python with its programs packed by the test.
type packedPython struct {
	*python.Python
	program [][]byte
}

func (p packedPython) Program() [][]byte { return p.program }

// TestCompiled: what the build has compiled runs as it is where the interpreter
// knows it, and otherwise its text, which a child compiles.
func TestCompiled(t *testing.T) {
	testenv.Need(t, testenv.Python3)
	dir := t.TempDir()
	cmd := exec.Command(python.Default, "-B", "shims/compile.py", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pack := func(name, text string, spoil func(file []byte)) []byte {
		t.Helper()
		file, err := os.ReadFile(filepath.Join(dir, name+".code"))
		if err != nil {
			t.Fatal(err)
		}
		spoil(file)
		return shims.Pack(file, text)
	}
	for name, c := range map[string]struct {
		spoil func(file []byte)
		child string // whether one compiled
	}{
		"compiled":       {func([]byte) {}, "False"},
		"another Python": {func(file []byte) { file[32] ^= 1 }, "True"},
		"another text":   {func(file []byte) { file[0] ^= 1 }, "True"},
	} {
		t.Run(name, func(t *testing.T) {
			p, app, log := newFixture(t, `
import resource, uwsgi, uwsgidecorators
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt > 0
async def application(scope, receive, send):
    if scope['type'] == 'http':
        uwsgi.cache_get, uwsgidecorators.timer
        await send({'type': 'http.response.start', 'status': 200})
        await send({'type': 'http.response.body', 'body': str(child).encode()})
`, nil)
			runtime := packedPython{Python: p.lang.(*python.Python)}
			runtime.program = [][]byte{
				pack("python", shims.PythonSource, c.spoil),
				runtime.Dict(nil, []lang.Entry{
					{Name: "uwsgi_program", Value: pack("python_uwsgi", shims.PythonUwsgiSource, c.spoil)},
					{Name: "decorators_program", Value: pack("uwsgidecorators", shims.PythonDecoratorsSource, c.spoil)}}),
				runtime.Dict(nil, []lang.Entry{{Name: "further", Value: pack("asgi", shims.ASGISource, c.spoil)}}),
			}
			p.lang = runtime
			if got := run(t, p, app, log).get("/"); got != c.child {
				t.Errorf("compiled by a child: %s, want %s", got, c.child)
			}
		})
	}
}
