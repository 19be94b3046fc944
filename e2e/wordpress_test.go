package e2e

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/internal/testmail"
)

// database is a MariaDB of the test's own: its data in the test's directory, its
// socket in a directory of /run, no network.
type database struct {
	t    *testing.T
	sock string
}

// newDatabase starts it, as nobody.
func newDatabase(t *testing.T, dir string) *database {
	t.Helper()
	d := &database{t: t, sock: filepath.Join(runDir(t), "mysqld.sock")}
	data := filepath.Join(dir, "db")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{data, filepath.Dir(d.sock)} {
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	small := []string{"--no-defaults", "--datadir=" + data, "--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"}
	d.as(exec.Command("mariadb-install-db", append(small, "--auth-root-authentication-method=socket", "--skip-test-db", "--user=nobody")...), true)
	server := exec.Command("/usr/sbin/mariadbd", append(small, "--socket="+d.sock, "--skip-networking", "--skip-name-resolve", "--performance-schema=0", "--key-buffer-size=1M", "--pid-file="+data+"/pid")...)
	said := &bytes.Buffer{}
	server.Stdout, server.Stderr = said, said
	d.as(server, false)
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		server.Wait()
		if t.Failed() {
			t.Logf("MariaDB said:\n%s", said)
		}
	})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err := exec.Command("mariadb", "--no-defaults", "--socket="+d.sock, "-e", "SELECT 1").Run(); err == nil {
			return d
		}
		if time.Now().After(deadline) {
			t.Fatal("MariaDB does not answer")
		}
	}
}

// as starts cmd as nobody, and waits for its success if it is to end.
func (d *database) as(cmd *exec.Cmd, ends bool) {
	d.t.Helper()
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if !ends {
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", cmd.Path, err, out)
	}
}

// does carries out SQL as root, whom the server knows by the socket.
func (d *database) does(sql string) {
	d.t.Helper()
	// The server's root is who started it.
	cmd := exec.Command("mariadb", "--no-defaults", "--socket="+d.sock, "-e", sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", sql, err, out)
	}
}

// browser keeps its cookies, as a person's does.
type browser struct {
	t    *testing.T
	http http.Client
	site string
}

func newBrowser(t *testing.T, addr string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, site: "http://" + addr, http: http.Client{Jar: jar, Timeout: 2 * time.Minute}}
	t.Cleanup(b.http.CloseIdleConnections)
	return b
}

func (b *browser) answer(resp *http.Response, err error) (int, string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (b *browser) get(path string) (int, string) {
	b.t.Helper()
	return b.answer(b.http.Get(b.site + path))
}

func (b *browser) post(path string, form url.Values) (int, string) {
	b.t.Helper()
	return b.answer(b.http.PostForm(b.site+path, form))
}

// upload sends a file as a form of a browser does.
func (b *browser) upload(path string, fields map[string]string, field, name string, text []byte) (int, string) {
	b.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for k, v := range fields {
		if err := w.WriteField(k, v); err != nil {
			b.t.Fatal(err)
		}
	}
	f, err := w.CreateFormFile(field, name)
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return b.answer(b.http.Post(b.site+path, w.FormDataContentType(), &body))
}

// install goes through WordPress's own form.
func (b *browser) install() {
	b.t.Helper()
	code, text := b.post("/wp-admin/install.php?step=2", url.Values{"weblog_title": {"A blog"}, "user_name": {"alice"}, "admin_password": {"correct horse"},
		"admin_password2": {"correct horse"}, "pw_weak": {"on"}, "admin_email": {"alice@shop.example"}, "language": {""}, "Submit": {"Install"}})
	if code != 200 || !strings.Contains(text, "Success!") {
		b.t.Fatalf("install: %d %s", code, text)
	}
	if code, text := b.get("/"); code != 200 || !strings.Contains(text, "A blog") {
		b.t.Errorf("the blog: %d %s", code, text)
	}
}

// login has the cookies of a session after it, and what shows that it counts:
// without them the same page asks who it is.
func (b *browser) login() {
	b.t.Helper()
	const page = "/wp-admin/profile.php"
	if _, text := b.get(page); !strings.Contains(text, "user_login") || strings.Contains(text, "alice@shop.example") {
		b.t.Errorf("who is not logged in sees %s", text)
	}
	b.post("/wp-login.php", url.Values{"log": {"alice"}, "pwd": {"correct horse"}, "testcookie": {"1"}})
	if code, text := b.get(page); code != 200 || !strings.Contains(text, "alice@shop.example") {
		b.t.Fatalf("log in: %d %s", code, text)
	}
}

// media uploads a picture as WordPress's own page does.
func (b *browser) media(picture []byte) {
	b.t.Helper()
	_, text := b.get("/wp-admin/media-new.php")
	nonce := regexp.MustCompile(`"_wpnonce":"([0-9a-f]+)"`).FindStringSubmatch(text)
	if nonce == nil {
		b.t.Fatalf("no form to upload with: %s", text)
	}
	code, text := b.upload("/wp-admin/async-upload.php", map[string]string{"name": "dot.gif", "_wpnonce": nonce[1], "post_id": "0", "short": "1"}, "async-upload", "dot.gif", picture)
	if code != 200 || !regexp.MustCompile(`^\d+$`).MatchString(strings.TrimSpace(text)) {
		b.t.Fatalf("upload: %d %s", code, text)
	}
}

// forgot asks for a new password, which WordPress sends a link to.
func (b *browser) forgot() string {
	b.t.Helper()
	_, text := newBrowser(b.t, strings.TrimPrefix(b.site, "http://")).post("/wp-login.php?action=lostpassword", url.Values{"user_login": {"alice"}, "redirect_to": {""}})
	return text
}

// TestWordPress is a hosting user's blog (CONTRACT 21): a copy of WordPress in
// the user's directory, its database by the host's socket as the vassal's user, a
// file uploaded, a session, and a mail.
func TestWordPress(t *testing.T) {
	testenv.Need(t, testenv.WordPress, testenv.PHP)
	r := layRealm(t)
	sink := testmail.New(t, "127.0.0.1:0")
	db := newDatabase(t, r.dir)
	db.does("CREATE DATABASE blog; CREATE USER 'www-data'@'localhost' IDENTIFIED VIA unix_socket; GRANT ALL ON blog.* TO 'www-data'@'localhost'")
	blog := r.wordpress(db.sock)
	r.ini = "[ceilings]\nsendmail-rate = 100/h\n"
	r.begin()
	const app = "plugins = php\nuid = www-data\nhttp-socket = 127.0.0.1:0\nchdir = DIR/blog\nphp-docroot = DIR/blog\ncheck-static = DIR/blog\nphp-index = index.php\n" +
		"php-fallback = DIR/blog/index.php\nphp-set = upload_max_filesize=64M\nphp-set = post_max_size=64M\nprocesses = 2\n"
	full := app + "connect = unix:" + db.sock + "\nsendmail = " + sink.Addr() + "\n"
	r.drop("blog", full)
	b := newBrowser(t, r.up("blog").Listen[0])

	b.install()
	if m := sink.Next(); strings.Join(m.To, " ") != "<alice@shop.example>" || !strings.HasPrefix(m.From, "<www-data@") {
		t.Errorf("%+v", m)
	}
	b.login()
	picture := append([]byte("GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;"), make([]byte, 3<<20)...)
	b.media(picture)
	found, err := filepath.Glob(filepath.Join(blog, "wp-content/uploads/*/*/dot.gif"))
	if err != nil || len(found) != 1 {
		t.Fatalf("uploaded files: %q", found)
	}
	if code, text := b.get("/" + strings.TrimPrefix(found[0], blog+"/")); code != 200 || text != string(picture) {
		t.Errorf("the file: %d, %d bytes", code, len(text))
	}
	if text := b.forgot(); !strings.Contains(text, "Check your email") {
		t.Fatalf("a lost password: %s", text)
	}
	if m := sink.Next(); strings.Join(m.To, " ") != "<alice@shop.example>" || !strings.Contains(m.Text, "Password Reset") || !strings.Contains(m.Text, "wp-login.php?action=rp") {
		t.Errorf("%+v", m)
	}

	// Without the lines there is no mail, and no database.
	r.drop("blog", app+"connect = unix:"+db.sock+"\n")
	r.until("mail is off", func() bool { return strings.Contains(b.forgot(), "could not be sent") })
	r.drop("blog", app)
	r.until("the database is away", func() bool {
		code, text := b.get("/")
		return code == 500 && strings.Contains(text, "database connection")
	})
}

// wordpress copies WordPress, as a user unpacks it, and returns where it is.
func (r *realm) wordpress(sock string) string {
	t := r.t
	t.Helper()
	blog := filepath.Join(r.dir, "blog")
	if out, err := exec.Command("cp", "-rL", "/usr/share/wordpress", blog).CombinedOutput(); err != nil {
		t.Logf("cp: %v: %s", err, out) // a link of Debian's that leads nowhere
	}
	if err := os.Remove(filepath.Join(blog, "wp-config.php")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	r.write("blog/wp-config.php", fmt.Sprintf(`<?php
define('DB_NAME', 'blog');
define('DB_USER', 'www-data');
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:%s');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
define('AUTH_KEY', 'one'); define('SECURE_AUTH_KEY', 'two'); define('LOGGED_IN_KEY', 'three'); define('NONCE_KEY', 'four');
define('AUTH_SALT', 'five'); define('SECURE_AUTH_SALT', 'six'); define('LOGGED_IN_SALT', 'seven'); define('NONCE_SALT', 'eight');
define('DISABLE_WP_CRON', true);
$table_prefix = 'wp_';
if (!defined('ABSPATH')) define('ABSPATH', __DIR__ . '/');
require_once ABSPATH . 'wp-settings.php';
`, sock))
	uploads := filepath.Join(blog, "wp-content/uploads")
	if err := os.MkdirAll(uploads, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(uploads, 33, 33); err != nil {
		t.Fatal(err)
	}
	return blog
}
