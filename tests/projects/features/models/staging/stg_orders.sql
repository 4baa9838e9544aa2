select order_id, customer_id, ordered_on, amount, status, {{ helpers.scaled('amount') }} as scaled
from {{ ref('raw_orders') }}
