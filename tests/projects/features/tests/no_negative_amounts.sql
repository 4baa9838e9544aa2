select order_id from {{ ref('appended') }} where amount < 0
