package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"liege/internal/testenv"
)

// The recipe "Several Ruby versions", of the other languages: an interpreter is
// registered by liege plugin build, and a file names it by its plugin line.

// plugged is an app by an interpreter that was registered.
type plugged struct {
	family, name string // as liege plugin build gets them
	program      string // of the system
	ini          string
	files        map[string]string
	want         string
}

var pluggeds = map[string]plugged{
	"python": {"python", "python_39", "python3", "plugin = python_39\nwsgi-file = app.py\n",
		map[string]string{"app.py": "import os\ndef application(e, s):\n    s('200 OK', [])\n    return [('python ' + os.environ['CLAIM']).encode()]\n"}, "python python_39"},
	"perl": {"plugins/psgi", "psgi_530", "perl", "plugin = psgi_530\npsgi = app.psgi\n",
		map[string]string{"app.psgi": "sub { [200, [], ['perl ' . $ENV{CLAIM}]] }\n"}, "perl psgi_530"},
	"php": {"php", "php_74", "php-cgi", "plugin = php_74\nphp-docroot = DIR/php\nphp-index = index.php\n",
		map[string]string{"index.php": "php <?php echo getenv('CLAIM');"}, "php php_74"},
}

// register puts an interpreter into dir that says which it is, and registers it
// there.
func (p *plugged) register(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(dir, "versions", p.name, "bin")
	script := "#!/bin/sh\nCLAIM=" + p.name + "\nexport CLAIM\nexec /usr/bin/" + p.program + " \"$@\"\n"
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.WriteFile(filepath.Join(bin, p.program), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	build(t, dir, bin, p.family, p.name)
}

// TestRecipePlugins: each language serves by the interpreter that its plugin
// line names, and not by the system's.
func TestRecipePlugins(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Python3, testenv.Perl, testenv.PHP)
	r := newRealm(t)
	for name, p := range pluggeds {
		dir := filepath.Join(r.dir, name)
		for file, text := range p.files {
			r.write(name+"/"+file, text)
		}
		p.register(t, dir)
		r.drop(name, p.ini+"plugins-dir = DIR/"+name+"\nuid = nobody\nhttp-socket = 127.0.0.1:0\nchdir = DIR/"+name+"\n")
	}
	for name, p := range pluggeds {
		v := r.up(name)
		if len(v.Problems) > 0 {
			t.Errorf("%s has problems: %v", name, v.Problems)
		}
		if status, got := r.get(v.Listen[0], "/"); status != 200 || got != p.want {
			t.Errorf("%s: %d %q, want %q", name, status, got, p.want)
		}
	}
}
