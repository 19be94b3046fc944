package e2e

import (
	"strconv"
	"testing"

	"liege/internal/testenv"
)

// TestExecJava: a JVM compiles its code as it runs, starts its threads under
// the strictest filter, finds its installation and the certificates below /etc,
// and sizes its heap by the vassal's memory-max, not by the host's memory.
func TestExecJava(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Java)
	r := layRealm(t)
	r.write("app/Server.java", `
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Server {
	public static void main(String[] args) throws Exception {
		HttpServer s = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT"))), 64);
		s.createContext("/heap", x -> {
			byte[] b = Long.toString(Runtime.getRuntime().maxMemory() >> 20).getBytes();
			x.sendResponseHeaders(200, b.length);
			x.getResponseBody().write(b);
			x.close();
		});
		s.createContext("/certificates", x -> {
			try {
				var f = javax.net.ssl.TrustManagerFactory.getInstance("PKIX");
				f.init((java.security.KeyStore) null);
				x.sendResponseHeaders(((javax.net.ssl.X509TrustManager) f.getTrustManagers()[0]).getAcceptedIssuers().length > 0 ? 204 : 500, -1);
			} catch (Exception e) {
				x.sendResponseHeaders(500, -1);
			}
			x.close();
		});
		s.start();
	}
}
`)
	r.drop("jvm", "uid = nobody\nchdir = DIR/app\nhttp-socket = 127.0.0.1:0\nexec-ready = /certificates\n"+
		"exec = java -XX:MaxRAMPercentage=50 Server.java\nmemory-max = 300M\nseccomp = strict\n")
	r.begin()
	status, got := r.get(r.up("jvm").Listen[0], "/heap")
	// Half of 300 MiB, less what its collector keeps for itself.
	if mib, err := strconv.Atoi(got); status != 200 || err != nil || mib < 100 || mib > 150 {
		t.Errorf("heap of a JVM with half of 300M: %d %q MiB", status, got)
	}
}
