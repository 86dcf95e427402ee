import java.io.FileInputStream;
import java.io.InputStream;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * Asks for / as Java's SSLSocket does.
 *
 * In:  address, port, server name, CA file.
 * Out: the answer on stdout; or the exception on stderr and exit 1.
 */
public class Ask {
    public static void main(String[] arguments) throws Exception {
        String address = arguments[0], name = arguments[2];
        int port = Integer.parseInt(arguments[1]);
        SSLContext context = trusting(arguments[3]);
        try (SSLSocket socket =
                (SSLSocket) context.getSocketFactory().createSocket(new Socket(address, port), name, port, true)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            socket.startHandshake();
            String request = "GET / HTTP/1.1\r\nHost: " + name + "\r\nConnection: close\r\n\r\n";
            socket.getOutputStream().write(request.getBytes());
            System.out.write(socket.getInputStream().readAllBytes());
            System.out.flush();
        } catch (SSLException e) {
            System.err.println(e);
            System.exit(1);
        }
    }

    private static SSLContext trusting(String file) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (InputStream pem = new FileInputStream(file)) {
            trusted.setCertificateEntry("only", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
