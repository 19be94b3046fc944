package vassal

import "testing"

func TestRunNames(t *testing.T) {
	for rest, want := range map[string]Name{
		"shop.sock": "shop", "shop.http.sock": "shop", "shop.https.sock": "shop", "shop.uwsgi.sock": "shop", "shop.fastcgi.sock": "shop",
		"shop.scgi.sock": "shop", "shop.stats.sock": "shop", "shop/a.sock": "shop", "shop/b/c": "shop", "shop": "shop",
		"shop.http.http.sock": "shop.http", "shop.http/a.sock": "shop.http", "shop.uk.sock": "shop.uk", "shop.x": "shop.x",
		"shop.sock/a": "shop", "shop.http.sock/a": "shop", ".sock": "", ".http.sock": "", "": "", "-x.sock": "", "a b.sock": "",
	} {
		if got := RunOwner(rest); got != want {
			t.Errorf("%s: of %q, want %q", rest, got, want)
		}
	}
	for _, c := range []struct {
		name Name
		rest string
		want bool
	}{
		{"shop", "shop.sock", true}, {"shop", "shop.http.sock", true}, {"shop", "shop.stats.sock", true}, {"shop", "shop/a.sock", true},
		{"shop", "shop", false}, {"shop", "shop.sock/a", false}, {"shop", "shop.uk.sock", false}, {"shop", "shop.x", false}, {"shop", "other.sock", false},
		{"shop.http", "shop.http.sock", false}, {"shop.http", "shop.http.http.sock", true}, {"shop.http", "shop.http/a.sock", true},
		{"shop.sock", "shop.sock", false}, {"shop.sock", "shop.sock/a", false}, {"shop.sock", "shop.sock.sock", true},
	} {
		if got := c.name.RunSocket(c.rest); got != c.want {
			t.Errorf("%s of %s: %v", c.rest, c.name, got)
		}
	}
	for rest, want := range map[string]bool{
		"control.sock": true, "control-users.sock.new": true, "vassals/v-shop/log": true, "sandbox": true, "sendmail.sock": true,
		"shop.sock": false, "control/a.sock": false, "locks": false,
	} {
		if got := EmperorsRun(rest); got != want {
			t.Errorf("%s: the Emperor's: %v", rest, got)
		}
	}
}
